"""Queries on `events`."""

from datetime import datetime

from sqlalchemy import func, select

from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events.models import EventRecord


def last_hash(tx: Transaction, federation_id: str) -> str | None:
    """Return the hash of the federation's latest event, if it has one."""
    return tx.session.scalars(
        select(EventRecord.hash)
        .where(EventRecord.federation_id == federation_id)
        .order_by(EventRecord.id.desc())
        .limit(1)
    ).first()


def hash_of(tx: Transaction, federation_id: str, action: str, subject: str) -> str:
    """Return the hash of the one event that records this: the head of the federation's chain then."""
    query = select(EventRecord.hash).where(
        EventRecord.federation_id == federation_id,
        EventRecord.action == action,
        EventRecord.subject == subject,
    )
    return tx.session.scalars(query).one()


def of_federation(tx: Transaction, federation_id: str) -> list[EventRecord]:
    """Return all events of a federation, oldest first."""
    return list(
        tx.session.scalars(
            select(EventRecord)
            .where(EventRecord.federation_id == federation_id)
            .order_by(EventRecord.id)
            .execution_options(yield_per=1000)
        )
    )


def last_time(tx: Transaction, federation_id: str, action: str) -> datetime | None:
    """Return when that last happened in the federation, if it ever did."""
    query = select(func.max(EventRecord.occurred_at)).where(
        EventRecord.federation_id == federation_id, EventRecord.action == action
    )
    return tx.session.scalars(query).one()
