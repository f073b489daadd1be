"""Queries on `updates`."""

from collections.abc import Mapping, Sequence

from sqlalchemy import select

from pfedbayespt.protocol import UpdateStatus
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.rounds.models import RoundInput, RoundRecord
from pfedbayespt.server.updates.models import UpdateRecord


def by_id(tx: Transaction, update_id: str) -> UpdateRecord | None:
    """Return an update, if there is one of that id."""
    return tx.session.get(UpdateRecord, update_id)


def submitted(tx: Transaction, origin_round_id: str, site_id: str) -> UpdateRecord | None:
    """Return the site's one update that was made for the round, quarantined ones apart, if it has one."""
    query = select(UpdateRecord).where(
        UpdateRecord.origin_round_id == origin_round_id,
        UpdateRecord.site_id == site_id,
        UpdateRecord.status != UpdateStatus.QUARANTINED,
    )
    return tx.session.scalars(query).one_or_none()


def federation_id(tx: Transaction, update: UpdateRecord) -> str:
    """Return the federation that an update belongs to."""
    return tx.session.scalars(
        select(RoundRecord.federation_id).where(RoundRecord.id == update.round_id)
    ).one()


def counted(tx: Transaction, round_id: str, site_id: str) -> UpdateRecord | None:
    """Return the site's one update that counts in the round, quarantined ones apart, if it has one."""
    query = select(UpdateRecord).where(
        UpdateRecord.round_id == round_id,
        UpdateRecord.site_id == site_id,
        UpdateRecord.status != UpdateStatus.QUARANTINED,
    )
    return tx.session.scalars(query).one_or_none()


def quarantined_digests(tx: Transaction, round_id: str, site_id: str) -> Sequence[str]:
    """Return the digests of what the site submitted in the round and had refused."""
    query = select(UpdateRecord.digest).where(
        UpdateRecord.round_id == round_id,
        UpdateRecord.site_id == site_id,
        UpdateRecord.status == UpdateStatus.QUARANTINED,
    )
    return tx.session.scalars(query).all()


def weights(tx: Transaction, update_ids: Sequence[str]) -> Mapping[str, float]:
    """Return the shares of those updates that are inputs of an aggregate."""
    query = select(RoundInput.update_id, RoundInput.weight).where(RoundInput.update_id.in_(update_ids))
    return dict(tx.session.execute(query).all())
