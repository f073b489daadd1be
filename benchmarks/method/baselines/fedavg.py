"""Federated averaging. McMahan et al., "Communication-efficient learning of deep networks", AISTATS 2017.

w <- mean_c train(w; c)

Where the training configuration has `head_rounds`, that many follow in which sites fit heads alone.
"""

from choices import Choice
from fleet import Fleet, Parameters, federate


def fit(fleet: Fleet, choice: Choice) -> Parameters:
    """Train the whole model together; a personal residual, if there is one, stays at its site."""
    own = fleet.stack(fleet.initial)
    for number in range(1, choice.num_rounds + 1):
        own = federate(fleet.train(own, number))
    if fleet.training.head_rounds:
        readout = fleet.central_readouts(own)  # once: prompts rest
        for _ in range(fleet.training.head_rounds):
            own = federate(fleet.fit_heads(own, readout))
    return own
