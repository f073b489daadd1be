"""No federation: every site trains alone, for as many epochs as the others.

Only the standardisation statistics are shared, which is to its advantage.
"""

from choices import Choice
from fleet import Fleet, Parameters


def fit(fleet: Fleet, choice: Choice) -> Parameters:
    """Train each site's own model."""
    own = fleet.stack(fleet.initial)
    for number in range(1, choice.num_rounds + 1):
        own = fleet.train(own, number)
    return own
