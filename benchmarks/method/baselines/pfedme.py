"""pFedMe. Dinh et al., "Personalized federated learning with Moreau envelopes", NeurIPS 2020.

theta_c = argmin loss_c + lambda/2 |theta_c - w_c|^2,    w_c <- w_c - eta lambda (w_c - theta_c),    w <- mean w_c
"""

from choices import Choice
from fleet import Fleet, Parameters, federate

from baselines.fedprox import proximity


def fit(fleet: Fleet, choice: Choice, pull: float = 0.1, step: float = 0.9) -> Parameters:
    """Train own models near the shared one; the shared one follows them by the share `step` = eta lambda."""
    shared = own = fleet.stack(fleet.initial)
    for number in range(1, choice.num_rounds + 1):
        own = fleet.train(shared, number, penalty=proximity(shared, pull))
        mean = federate(own)
        shared = {n: p + step * (mean[n] - p) for n, p in shared.items()}
    return own
