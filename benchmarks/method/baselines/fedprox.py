"""FedProx. Li et al., "Federated optimization in heterogeneous networks", MLSys 2020.

loss_c + mu/2 |w_c - w|^2
"""

from choices import Choice
from fleet import Fleet, Parameters, Penalty, federate


def fit(fleet: Fleet, choice: Choice, mu: float = 0.01) -> Parameters:
    """Train together, each site held near the round's start."""
    own = fleet.stack(fleet.initial)
    for number in range(1, choice.num_rounds + 1):
        own = federate(fleet.train(own, number, penalty=proximity(own, mu)))
    return own


def proximity(centre: Parameters, mu: float) -> Penalty:
    """Return the penalty mu/2 |w_c - centre_c|^2 per site."""
    return lambda w: 0.5 * mu * sum((w[n] - centre[n]).flatten(1).square().sum(1) for n in w)
