"""FedRep. Collins et al., "Exploiting shared representations", ICML 2021: first the head, then the body."""

from choices import Choice
from fleet import Fleet, Parameters, federate, is_head


def fit(fleet: Fleet, choice: Choice) -> Parameters:
    """Alternate: all but one local epoch for the head, at least one, and then one for the prompts."""
    own = fleet.stack(fleet.initial)
    head_epochs = max(1, fleet.training.local_epochs - 1)
    for number in range(1, choice.num_rounds + 1):
        own = fleet.train(own, number, epochs=head_epochs, trainable=is_head)
        own = fleet.train(own, number, epochs=1, trainable=lambda name: not is_head(name))
        own = federate(own, personal=is_head)
    return own
