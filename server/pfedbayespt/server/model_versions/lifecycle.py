"""The model version's lifecycle, and the verbs that are the only writers of its status.

A federation has at most one serving version, so the one that serves is retired before another is promoted.
"""

from typing import Final

from pfedbayespt.protocol import ModelVersionStatus as S
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import service as events
from pfedbayespt.server.lifecycle import Lifecycle, advance, verb
from pfedbayespt.server.model_versions.models import ModelVersionRecord

LIFECYCLE: Final = Lifecycle(
    subject="model version",
    initial=S.CANDIDATE,
    verbs={
        "promote": verb({S.CANDIDATE, S.HELD, S.RETIRED}, S.SERVING),
        "retire": verb({S.SERVING}, S.RETIRED),
        "hold": verb({S.CANDIDATE}, S.HELD),
    },
)


def promote(tx: Transaction, version: ModelVersionRecord) -> None:
    """candidate, held or retired -> serving."""
    _move(tx, version, "promote", "model_version.promoted")


def retire(tx: Transaction, version: ModelVersionRecord) -> None:
    """Serving -> retired: another one takes over; it can come back."""
    _move(tx, version, "retire", "model_version.retired")


def hold(tx: Transaction, version: ModelVersionRecord) -> None:
    """Candidate -> held: not good enough, or its round was abandoned; an admin may still promote it."""
    _move(tx, version, "hold", "model_version.held")


def _move(tx: Transaction, version: ModelVersionRecord, name: str, action: str) -> None:
    advance(tx, LIFECYCLE, version, name)
    events.record(
        tx,
        version.federation_id,
        action,
        version.id,
        version_number=version.number,
        digest=version.digest,
    )
