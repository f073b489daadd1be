"""The trial's lifecycle, and the verbs that are the only writers of its status."""

from typing import Final

from pfedbayespt.protocol import TrialStatus as S
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import service as events
from pfedbayespt.server.lifecycle import Lifecycle, advance, verb
from pfedbayespt.server.trials.models import TrialRecord

LIFECYCLE: Final = Lifecycle(
    subject="trial",
    initial=S.RUNNING,
    verbs={"stop": verb({S.RUNNING}, S.STOPPED), "trip": verb({S.RUNNING}, S.TRIPPED)},
)


def stop(tx: Transaction, trial: TrialRecord, reason: str) -> None:
    """Running -> stopped: somebody ended it, or the version that serves changed."""
    _end(tx, trial, "stop", "trial.stopped", reason)


def trip(tx: Transaction, trial: TrialRecord, reason: str) -> None:
    """Running -> tripped: it went beyond one of its bounds."""
    _end(tx, trial, "trip", "trial.tripped", reason)


def _end(tx: Transaction, trial: TrialRecord, name: str, action: str, reason: str) -> None:
    advance(tx, LIFECYCLE, trial, name, reason=reason, finished_at=tx.now)
    events.record(
        tx,
        trial.federation_id,
        action,
        trial.id,
        version_number=trial.version.number,
        reason=reason,
        num_tried=trial.num_tried,
        num_errors=trial.num_errors,
        num_compared=trial.num_compared,
        num_flips=trial.num_flips,
    )
