"""Who aggregates a round: one worker at a time, so that several coordinators do not compute the same thing.

Rules:
1. A lease is two columns of the round: who, and until when by the database's clock. It saves work and nothing more:
   that a round leads to one version is up to the compare-and-set and the unique constraint.
2. The holder holds it anew while it works; one that died or sleeps loses it when it expires, to whoever comes next.
3. Taking and keeping it are one statement, so nobody can come in between.
"""

from datetime import timedelta

from sqlalchemy import or_, update

from pfedbayespt.protocol import RoundStatus
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.rounds.models import RoundRecord


def hold(tx: Transaction, round_id: str, holder: str, duration: timedelta) -> bool:
    """Take the lease, or keep it for `duration` from now; False: another holds it, or nothing is to aggregate."""
    is_free = or_(
        RoundRecord.lease_holder.is_(None),
        RoundRecord.lease_holder == holder,
        RoundRecord.lease_expires_at <= tx.now,
    )
    held = tx.session.execute(
        update(RoundRecord)
        .where(RoundRecord.id == round_id, RoundRecord.status == RoundStatus.AGGREGATING, is_free)
        .values(lease_holder=holder, lease_expires_at=tx.now + duration)
        .returning(RoundRecord.id)
        .execution_options(synchronize_session=False)
    )
    return held.first() is not None


def release(tx: Transaction, round_id: str, holder: str) -> None:
    """Let go of the lease, if it is held."""
    tx.session.execute(
        update(RoundRecord)
        .where(RoundRecord.id == round_id, RoundRecord.lease_holder == holder)
        .values(lease_holder=None, lease_expires_at=None)
        .execution_options(synchronize_session=False)
    )
