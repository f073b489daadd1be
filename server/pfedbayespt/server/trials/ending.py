"""What ends a trial besides people and its bounds: another version begins to serve."""

from pfedbayespt.server.database import Transaction
from pfedbayespt.server.trials import lifecycle, repository


def end_running(tx: Transaction, federation_id: str, promoted_number: int) -> None:
    """End the federation's trial, if one is under way."""
    trial = repository.running(tx, federation_id)
    if trial is not None:
        lifecycle.stop(tx, trial, f"version {promoted_number} was promoted")
