"""Ditto. Li et al., "Ditto: fair and robust federated learning through personalization", ICML 2021.

v_c:  loss_c(v_c) + lambda/2 |v_c - w|^2,     w by FedAvg
"""

from fleet import Fleet, Parameters, average

from baselines.fedprox import proximity


def fit(fleet: Fleet, num_rounds: int, pull: float = 0.1) -> Parameters:
    """Train a shared model, and beside it an own one that is held near it (twice the computing of the others)."""
    shared, own = fleet.initial, fleet.stack(fleet.initial)
    for number in range(1, num_rounds + 1):
        start = fleet.stack(shared)
        own = fleet.train(own, number, penalty=proximity(start, pull))
        shared = average(fleet.train(start, number))
    return own
