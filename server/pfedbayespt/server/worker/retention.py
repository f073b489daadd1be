"""Giving up the files of updates whose rounds are long over, where an operator has set for how many to keep them.

The row stays, with digest, statement and receipt, so lineage can be followed and checked as before; but a version
made of such updates can no longer be computed again. The file goes with the next sweep, unless a row names it.
"""

from typing import Final

from sqlalchemy import select, update

from pfedbayespt.protocol import UpdateStatus
from pfedbayespt.server.context import Context
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import service as events
from pfedbayespt.server.federations import repository as federations
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.rounds.models import RoundRecord
from pfedbayespt.server.updates.models import UpdateRecord

_ACTOR: Final = "worker"


def retire_payloads(context: Context) -> int:
    """Retire what is due, and return how many updates that were."""
    keep = context.settings.keep_payload_rounds
    if keep is None:
        return 0
    with context.database.read() as tx:
        federation_ids = tx.session.scalars(select(FederationRecord.id)).all()
    return sum(_retire(context, federation_id, keep) for federation_id in federation_ids)


def _retire(context: Context, federation_id: str, keep: int) -> int:
    with context.database.read() as tx:
        if not _due(tx, federation_id, keep):
            return 0
    with context.database.write(_ACTOR) as tx:
        federations.lock(tx, federation_id)
        return sum(_retire_round(tx, federation_id, round_id) for round_id in _due(tx, federation_id, keep))


def _due(tx: Transaction, federation_id: str, keep: int) -> list[str]:
    """Return the finished rounds, but for the last `keep`, that still have files."""
    finished = (
        select(RoundRecord.id)
        .where(RoundRecord.federation_id == federation_id, RoundRecord.finished_at.is_not(None))
        .order_by(RoundRecord.number.desc())
    )
    old = list(tx.session.scalars(finished).all())[keep:]
    with_files = select(UpdateRecord.round_id).where(UpdateRecord.round_id.in_(old), *_HAS_FILE).distinct()
    return sorted(tx.session.scalars(with_files))


def _retire_round(tx: Transaction, federation_id: str, round_id: str) -> int:
    query = update(UpdateRecord).where(UpdateRecord.round_id == round_id, *_HAS_FILE)
    retired: int = tx.session.execute(query.values(payload_retired_at=tx.now)).rowcount  # type: ignore[attr-defined]
    events.record(tx, federation_id, "round.payloads_retired", round_id, num_updates=retired)
    return retired


_HAS_FILE: Final = (
    UpdateRecord.payload_retired_at.is_(None),
    UpdateRecord.status != UpdateStatus.QUARANTINED,
)
