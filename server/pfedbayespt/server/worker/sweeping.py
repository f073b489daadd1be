"""Removing files that nobody will ask for: what crashes left half written, and blobs that no row names.

A blob is kept before its row is written, so one without a row may be on its way. It is removed only when it is
older than `sweep_grace_seconds`, which no request and no aggregation takes from `put` to commit. A column names
blobs if its name ends in `digest`; that some of them are digests of other things keeps no file too few.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

import structlog
from sqlalchemy import String, select

from pfedbayespt.server.context import Context
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.orm import Base
from pfedbayespt.server.updates.models import UpdateRecord
from pfedbayespt.server.worker.retention import retire_payloads

_BATCH: Final = 500
_log = structlog.get_logger(__name__)


def sweep(context: Context) -> int:
    """Remove what is due, and return how many files that were."""
    retire_payloads(context)
    grace_seconds = context.settings.sweep_grace_seconds
    removed = context.blobs.discard_leftovers(grace_seconds)
    for digests in _batches(context.blobs.aged(grace_seconds)):
        with context.database.read() as tx:
            orphans = set(digests) - named(tx, digests)
        removed += sum(context.blobs.delete_if_aged(digest, grace_seconds) for digest in sorted(orphans))
    if removed:
        _log.info("swept", removed=removed)
    return removed


def named(tx: Transaction, digests: Sequence[str]) -> set[str]:
    """Return those of the digests that some row names, and has not given up."""
    found: set[str] = set()
    for table in Base.metadata.sorted_tables:
        for column in table.columns:
            if column.name.endswith("digest") and isinstance(column.type, String):
                query = select(column).where(column.in_(digests))
                if table is UpdateRecord.__table__:
                    query = query.where(UpdateRecord.payload_retired_at.is_(None))
                found.update(tx.session.scalars(query))
    return found


def _batches(digests: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(digests)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
