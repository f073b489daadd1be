"""APFL. Deng et al., "Adaptive personalized federated learning", 2020: predict with alpha v_c + (1 - alpha) w."""

from choices import Choice
from fleet import Fleet, Parameters, federate


def fit(fleet: Fleet, choice: Choice, alpha: float = 0.5) -> Parameters:
    """Train the shared model, and an own one through the mixture of the two; alpha stays fixed."""
    shared = own = fleet.stack(fleet.initial)
    for number in range(1, choice.num_rounds + 1):
        after = fleet.train(shared, number)
        own = fleet.train(own, number, view=lambda v, w=after: mixture(v, w, alpha))
        shared = federate(after)
    return mixture(own, shared, alpha)


def mixture(own: Parameters, shared: Parameters, alpha: float) -> Parameters:
    """Return alpha v + (1 - alpha) w."""
    return {n: alpha * own[n] + (1 - alpha) * shared[n] for n in own}
