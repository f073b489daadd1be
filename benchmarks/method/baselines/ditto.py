"""Ditto. Li et al., "Ditto: fair and robust federated learning through personalization", ICML 2021.

v_c:  loss_c(v_c) + lambda/2 |v_c - w|^2,     w by FedAvg
"""

from choices import Choice
from fleet import Fleet, Parameters, federate

from baselines.fedprox import proximity


def fit(fleet: Fleet, choice: Choice, pull: float = 0.1) -> Parameters:
    """Train a shared model, and beside it an own one that is held near it (twice the computing of the others)."""
    shared = own = fleet.stack(fleet.initial)
    for number in range(1, choice.num_rounds + 1):
        own = fleet.train(own, number, penalty=proximity(shared, pull))
        shared = federate(fleet.train(shared, number))
    return own
