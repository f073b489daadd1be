"""FedPer. Arivazhagan et al., "Federated learning with personalization layers", 2019: the head never leaves."""

from fleet import Fleet, Parameters, average


def fit(fleet: Fleet, num_rounds: int) -> Parameters:
    """Share the prompts, keep the head."""
    own = fleet.stack(fleet.initial)
    for number in range(1, num_rounds + 1):
        own = fleet.train(own, number)
        own = own | {n: p for n, p in fleet.stack(average(own)).items() if not is_head(n)}
    return own


def is_head(name: str) -> bool:
    """Say whether a parameter belongs to the head."""
    return name.startswith("head.")
