"""Recording, listing and verifying events; how they are chained: `protocol.events`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue
from sqlalchemy import select

from pfedbayespt.protocol import FIRST_HASH, Event, Page, event_hash
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import repository
from pfedbayespt.server.events.models import EventRecord
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.pages import Order, PageRequest, fetch_page, matching

_ORDER = Order((EventRecord.id,))


@dataclass(frozen=True)
class EventFilter:
    """Which events are wanted; None: whatever theirs is."""

    action: str | None = None
    subject: str | None = None
    actor: str | None = None
    since: datetime | None = None


EVERY_EVENT = EventFilter()


def record(tx: Transaction, federation_id: str, action: str, subject: str, **details: JsonValue) -> None:
    """Write the event of a change into the transaction that makes the change."""
    previous = repository.last_hash(tx, federation_id) or FIRST_HASH
    event = EventRecord(
        federation_id=federation_id,
        actor=tx.actor,
        action=action,
        subject=subject,
        details=details,
        occurred_at=tx.now,
        previous_hash=previous,
    )
    event.hash = _hash_of(event)
    tx.session.add(event)
    tx.session.flush()


def list_page(
    tx: Transaction, federation: FederationRecord, request: PageRequest, wanted: EventFilter = EVERY_EVENT
) -> Page[Event]:
    """Return a page of the federation's events, or of those that are wanted, oldest first."""

    def to_messages(rows: Sequence[EventRecord]) -> list[Event]:
        return [_to_message(row, federation.name) for row in rows]

    query = select(EventRecord).where(EventRecord.federation_id == federation.id)
    query = matching(query, action=wanted.action, subject=wanted.subject, actor=wanted.actor)
    if wanted.since is not None:
        query = query.where(EventRecord.occurred_at >= wanted.since)
    return fetch_page(tx, query, _ORDER, request, to_messages)


def first_broken(events: Iterable[EventRecord]) -> int | None:
    """Return the id of the first event whose link or content is not what was recorded, None if all are sound."""
    previous = FIRST_HASH
    for event in events:
        if event.previous_hash != previous or event.hash != _hash_of(event):
            return event.id
        previous = event.hash
    return None


def _hash_of(event: EventRecord) -> str:
    return event_hash(
        previous_hash=event.previous_hash,
        actor=event.actor,
        action=event.action,
        subject=event.subject,
        details=event.details,
        occurred_at=event.occurred_at,
    )


def _to_message(row: EventRecord, federation: str) -> Event:
    return Event(
        event_id=row.id,
        federation=federation,
        actor=row.actor,
        action=row.action,
        subject=row.subject,
        details=row.details,
        occurred_at=row.occurred_at,
        previous_hash=row.previous_hash,
        hash=row.hash,
    )
