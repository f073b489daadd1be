"""What ends a trial besides people and its bounds: another version begins to serve, or it cannot be loaded."""

from typing import Final

from sqlalchemy import select

from pfedbayespt.server.database import Transaction
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.trials import lifecycle, repository
from pfedbayespt.server.trials.models import TrialRecord

_MAX_REASON_CHARACTERS: Final = 255  # as many as the column holds


def end_running(tx: Transaction, federation_id: str, promoted_number: int) -> None:
    """End the federation's trial, if one is under way."""
    trial = repository.running(tx, federation_id)
    if trial is not None:
        lifecycle.stop(tx, trial, f"version {promoted_number} was promoted")


def find_trial_of(tx: Transaction, federation: str, number: int, *, lock: bool = False) -> TrialRecord | None:
    """Return the running trial of the version of that number in the federation of that name, if it is on trial."""
    query = select(FederationRecord.id).where(FederationRecord.name == federation)
    federation_id = tx.session.scalars(query.with_for_update() if lock else query).one()
    trial = repository.running(tx, federation_id)
    return trial if trial is not None and trial.version.number == number else None


def trip_unloadable(tx: Transaction, federation: str, number: int, reason: str) -> None:
    """End the trial of a version that a process cannot load, if it is still on trial."""
    trial = find_trial_of(tx, federation, number, lock=True)
    if trial is not None:
        lifecycle.trip(tx, trial, reason[:_MAX_REASON_CHARACTERS])
