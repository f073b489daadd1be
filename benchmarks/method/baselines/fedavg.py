"""Federated averaging. McMahan et al., "Communication-efficient learning of deep networks", AISTATS 2017.

w <- mean_c train(w; c)
"""

from fleet import Fleet, Parameters, average


def fit(fleet: Fleet, num_rounds: int) -> Parameters:
    """Train the whole model together."""
    shared = fleet.initial
    for number in range(1, num_rounds + 1):
        shared = average(fleet.train(fleet.stack(shared), number))
    return fleet.stack(shared)
