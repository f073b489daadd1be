"""The federation's lifecycle, and the verbs that are the only writers of its status."""

from typing import Final

from pfedbayespt.protocol import FederationStatus as S
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import service as events
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.lifecycle import Lifecycle, advance, verb

LIFECYCLE: Final = Lifecycle(
    subject="federation",
    initial=S.DRAFT,
    verbs={
        "activate": verb({S.DRAFT}, S.ACTIVE),
        "pause": verb({S.ACTIVE}, S.PAUSED),
        "resume": verb({S.PAUSED}, S.ACTIVE),
        "archive": verb({S.PAUSED}, S.ARCHIVED),
    },
)


def activate(tx: Transaction, federation: FederationRecord) -> None:
    """Draft -> active: sites may enrol and rounds may start."""
    _move(tx, federation, "activate", "federation.activated")


def pause(tx: Transaction, federation: FederationRecord, reason: str | None = None) -> None:
    """Active -> paused: no new round starts; a live one goes on."""
    _move(tx, federation, "pause", "federation.paused", reason)


def resume(tx: Transaction, federation: FederationRecord) -> None:
    """Paused -> active."""
    _move(tx, federation, "resume", "federation.resumed")


def archive(tx: Transaction, federation: FederationRecord) -> None:
    """Paused -> archived: over for good; its versions can still be read."""
    _move(tx, federation, "archive", "federation.archived")


def _move(
    tx: Transaction, federation: FederationRecord, name: str, action: str, reason: str | None = None
) -> None:
    advance(tx, LIFECYCLE, federation, name)
    details = {} if reason is None else {"reason": reason}
    events.record(tx, federation.id, action, federation.name, **details)
