"""Federations without organisations: sites that have no images but do all that a site does.

    synthetic     sites through the SDK whose updates are drawn, so that the mean is known: for benchmarks and tests
    population    sites whose objective is known, so that a method can be seen to work
    federation    thousands of them at a real coordinator, in Ray tasks
    in_process    the same rounds without a network, a database or Ray
    outcome       what a simulation tells
    measuring     what the coordinator's process costs

Nothing is imported here: a task on another machine needs a few of these modules only.
"""
