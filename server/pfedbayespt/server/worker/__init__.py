"""The worker: does what is due, whoever was doing it before."""
