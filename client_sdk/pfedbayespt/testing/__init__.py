"""The conformance kit: a coordinator to test sites with, sites to test a coordinator with, and checks for both.

Rules:
1. `FakeCoordinator` answers sites over real HTTP as the real coordinator does, and keeps nothing on the disk; what
   it does not do (admins, predictions, asynchronous rounds) it refuses at once. `CoordinatorConformance` holds both
   to the same checks.
2. `FakeSite` is a site without images: it crashes, lies, lags, replays and poisons when it is told to.
3. Misbehaviour is asked for (`Faults`), never random, so that a test that failed fails again.

    coordinator, federation    FakeCoordinator, FakeFederation: what it answers, what it knows
    loopback, checks, lineage  its HTTP, what it refuses, what it signs
    faults                     Faults, Fault
    sites                      FakeSite, Poison
    conformance                CoordinatorConformance, Stage
    plugin                     the fixtures, which pytest finds by itself

Nothing is imported here, as pytest imports this package in every project where it is installed.
"""
