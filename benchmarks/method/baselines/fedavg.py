"""Federated averaging. McMahan et al., "Communication-efficient learning of deep networks", AISTATS 2017.

w <- mean_c train(w; c)
"""

from choices import Choice
from fleet import Fleet, Parameters, federate


def fit(fleet: Fleet, choice: Choice) -> Parameters:
    """Train the whole model together; a personal residual, if there is one, stays at its site."""
    own = fleet.stack(fleet.initial)
    for number in range(1, choice.num_rounds + 1):
        own = federate(fleet.train(own, number))
    return own
