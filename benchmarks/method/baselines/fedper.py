"""FedPer. Arivazhagan et al., "Federated learning with personalization layers", 2019: the head never leaves."""

from choices import Choice
from fleet import Fleet, Parameters, federate, is_head


def fit(fleet: Fleet, choice: Choice) -> Parameters:
    """Share the prompts, keep the head."""
    own = fleet.stack(fleet.initial)
    for number in range(1, choice.num_rounds + 1):
        own = federate(fleet.train(own, number), personal=is_head)
    return own
