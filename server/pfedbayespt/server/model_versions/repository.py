"""Queries on `model_versions` and `evaluations`."""

from collections.abc import Sequence

from sqlalchemy import Select, func, select
from sqlalchemy.orm import joinedload, selectinload, undefer

from pfedbayespt.protocol import ModelVersionStatus
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.model_versions.models import EvaluationRecord, ModelVersionRecord
from pfedbayespt.server.rounds.models import RoundInput, RoundRecord


def with_lineage() -> Select[ModelVersionRecord]:
    """Return the query for versions and all that their messages need: as much as there were sites."""
    return select(ModelVersionRecord).options(
        undefer(ModelVersionRecord.manifest),
        joinedload(ModelVersionRecord.parent),
        selectinload(ModelVersionRecord.evaluations).joinedload(EvaluationRecord.site),
        selectinload(ModelVersionRecord.calibrations),
        selectinload(ModelVersionRecord.round).selectinload(RoundRecord.inputs).joinedload(RoundInput.update),
    )


def by_number(
    tx: Transaction, federation_id: str, number: int, *, lineage: bool = False
) -> ModelVersionRecord | None:
    """Return a federation's version of that number, if there is one, with its `lineage` if that is to be shown."""
    query = with_lineage() if lineage else select(ModelVersionRecord)
    query = query.where(
        ModelVersionRecord.federation_id == federation_id, ModelVersionRecord.number == number
    )
    return tx.session.scalars(query).one_or_none()


def serving(tx: Transaction, federation_id: str) -> ModelVersionRecord | None:
    """Return the version that answers predictions, if there is one."""
    query = select(ModelVersionRecord).where(
        ModelVersionRecord.federation_id == federation_id,
        ModelVersionRecord.status == ModelVersionStatus.SERVING,
    )
    return tx.session.scalars(query).one_or_none()


def next_number(tx: Transaction, federation_id: str) -> int:
    """Return the number that the federation's next version gets."""
    query = select(func.max(ModelVersionRecord.number)).where(
        ModelVersionRecord.federation_id == federation_id
    )
    return (tx.session.scalars(query).one() or 0) + 1


def distance(tx: Transaction, version: ModelVersionRecord, ancestor_id: str, limit: int) -> int | None:
    """Return how many versions lie between one and its ancestor; None: more than `limit`, or it is no ancestor."""
    here: ModelVersionRecord | None = version
    for steps in range(limit + 1):
        if here is None or here.id == ancestor_id:
            return None if here is None else steps
        here = tx.session.get(ModelVersionRecord, here.parent_id) if here.parent_id else None
    return None


def evaluation(tx: Transaction, version_id: str, site_id: str) -> EvaluationRecord | None:
    """Return a site's evaluation of a version, if it has reported one."""
    return tx.session.get(EvaluationRecord, (version_id, site_id))


def evaluations(tx: Transaction, version_id: str) -> Sequence[EvaluationRecord]:
    """Return all evaluations of a version."""
    query = select(EvaluationRecord).where(EvaluationRecord.version_id == version_id)
    return tx.session.scalars(query.order_by(EvaluationRecord.site_id)).all()
