"""Queries on `federations` and what is counted per federation."""

from collections.abc import Sequence

from sqlalchemy import Select, func, select

from pfedbayespt.protocol import ModelVersionStatus, RoundStatus, RoundTask
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.rounds.models import RoundRecord


def exists(tx: Transaction, name: str) -> bool:
    """Whether the name is taken."""
    query = select(FederationRecord.id).where(FederationRecord.name == name)
    return tx.session.scalars(query).first() is not None


def unsigned() -> Select[FederationRecord]:
    """Return the query for federations whose terms nobody has signed."""
    return select(FederationRecord).where(FederationRecord.terms.is_(None))


def lock(tx: Transaction, federation_id: str) -> FederationRecord:
    """Return the federation, locked against other writers until the transaction ends."""
    query = select(FederationRecord).where(FederationRecord.id == federation_id).with_for_update()
    return tx.session.scalars(query).one()


def lock_of_round(tx: Transaction, round_id: str) -> None:
    """Lock the federation of a round against other writers until the transaction ends."""
    federation_id = select(RoundRecord.federation_id).where(RoundRecord.id == round_id).scalar_subquery()
    query = select(FederationRecord).where(FederationRecord.id == federation_id).with_for_update()
    tx.session.scalars(query).one()


def serving_numbers(tx: Transaction, federation_ids: Sequence[str]) -> dict[str, int]:
    """Return the number of each federation's serving version, where it has one."""
    query = select(ModelVersionRecord.federation_id, ModelVersionRecord.number).where(
        ModelVersionRecord.federation_id.in_(federation_ids),
        ModelVersionRecord.status == ModelVersionStatus.SERVING,
    )
    return dict(tx.session.execute(query).all())


def published_counts(tx: Transaction, federation_ids: Sequence[str]) -> dict[str, int]:
    """Return how many rounds of any task each federation has published, where there are any."""
    query = (
        select(RoundRecord.federation_id, func.count())
        .where(RoundRecord.federation_id.in_(federation_ids), RoundRecord.status == RoundStatus.PUBLISHED)
        .group_by(RoundRecord.federation_id)
    )
    return dict(tx.session.execute(query).all())


def count_published(tx: Transaction, federation_id: str, task: RoundTask) -> int:
    """Return how many rounds of one task the federation has published."""
    query = select(func.count()).where(
        RoundRecord.federation_id == federation_id,
        RoundRecord.status == RoundStatus.PUBLISHED,
        RoundRecord.task == task,
    )
    return tx.session.scalars(query).one()
