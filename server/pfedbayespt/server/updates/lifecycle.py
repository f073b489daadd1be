"""The update's lifecycle, and the verbs that are the only writers of its status."""

from typing import Final

from pydantic import JsonValue

from pfedbayespt.protocol import UpdateStatus as S
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import service as events
from pfedbayespt.server.lifecycle import Lifecycle, advance, verb
from pfedbayespt.server.updates.models import UpdateRecord

LIFECYCLE: Final = Lifecycle(
    subject="update",
    initial=S.RECEIVED,
    verbs={
        "accept": verb({S.RECEIVED}, S.ACCEPTED),
        "quarantine": verb({S.RECEIVED}, S.QUARANTINED),
        "aggregate": verb({S.ACCEPTED}, S.AGGREGATED),
        "discard": verb({S.ACCEPTED}, S.DISCARDED),
    },
)


def accept(tx: Transaction, update: UpdateRecord, federation_id: str) -> None:
    """Received -> accepted: it passed every check, and its file is durable."""
    advance(tx, LIFECYCLE, update, "accept")
    _record(tx, update, federation_id, "update.accepted")


def quarantine(tx: Transaction, update: UpdateRecord, federation_id: str, verdict: str) -> None:
    """Received -> quarantined: it failed a check; the file is not kept."""
    advance(tx, LIFECYCLE, update, "quarantine", verdict=verdict)
    _record(tx, update, federation_id, "update.quarantined")


def aggregate(tx: Transaction, update: UpdateRecord, federation_id: str) -> None:
    """Accepted -> aggregated: a model version holds it."""
    advance(tx, LIFECYCLE, update, "aggregate")
    _record(tx, update, federation_id, "update.aggregated")


def discard(tx: Transaction, update: UpdateRecord, federation_id: str, verdict: str) -> None:
    """Accepted -> discarded: no version will hold it, and `verdict` says why."""
    advance(tx, LIFECYCLE, update, "discard", verdict=verdict)
    _record(tx, update, federation_id, "update.discarded")


def _record(tx: Transaction, update: UpdateRecord, federation_id: str, action: str) -> None:
    details: dict[str, JsonValue] = {"site_id": update.site_id, "digest": update.digest}
    if update.verdict is not None:
        details["verdict"] = update.verdict
    if update.origin_round_id != update.round_id:
        details |= {"late_for": update.origin_round_id, "staleness": update.staleness}
    events.record(tx, federation_id, action, update.id, **details)
