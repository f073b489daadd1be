"""FedProx. Li et al., "Federated optimization in heterogeneous networks", MLSys 2020.

loss_c + mu/2 |w_c - w|^2
"""

from fleet import Fleet, Parameters, average


def fit(fleet: Fleet, num_rounds: int, mu: float = 0.01) -> Parameters:
    """Train together, each site held near the round's start."""
    shared = fleet.initial
    for number in range(1, num_rounds + 1):
        start = fleet.stack(shared)
        shared = average(fleet.train(start, number, penalty=proximity(start, mu)))
    return fleet.stack(shared)


def proximity(centre: Parameters, mu: float):
    """Return the penalty mu/2 |w_c - centre_c|^2 per site."""
    return lambda w: 0.5 * mu * sum((w[n] - centre[n]).flatten(1).square().sum(1) for n in w)
