"""The Flower app of `bench_flower.py`; it runs in an environment of its own, without this project's packages."""
