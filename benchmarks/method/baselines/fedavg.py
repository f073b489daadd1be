"""Federated averaging. McMahan et al., "Communication-efficient learning of deep networks", AISTATS 2017.

w <- mean_c train(w; c)
"""

from fleet import Fleet, Parameters, federate


def fit(fleet: Fleet, num_rounds: int) -> Parameters:
    """Train the whole model together; a personal residual, if there is one, stays at its site."""
    own = fleet.stack(fleet.initial)
    for number in range(1, num_rounds + 1):
        own = federate(fleet.train(own, number))
    return own
