"""Queries on `trials`."""

from dataclasses import asdict

from sqlalchemy import Select, select, update
from sqlalchemy.orm import joinedload

from pfedbayespt.protocol import TrialStatus
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.trials.models import TrialRecord
from pfedbayespt.server.trials.tallies import Tally


def with_versions() -> Select[TrialRecord]:
    """Return the query for trials and the versions that their messages name."""
    return select(TrialRecord).options(
        joinedload(TrialRecord.version), joinedload(TrialRecord.serving_version)
    )


def running(tx: Transaction, federation_id: str) -> TrialRecord | None:
    """Return the federation's trial that has not ended, if there is one."""
    query = with_versions().where(
        TrialRecord.federation_id == federation_id, TrialRecord.status == TrialStatus.RUNNING
    )
    return tx.session.scalars(query).one_or_none()


def add(tx: Transaction, trial_id: str, seen: Tally) -> TrialRecord | None:
    """Add to the sums of a trial and return it; None: it has ended, or there is none."""
    columns = {name: getattr(TrialRecord, name) + value for name, value in asdict(seen).items()}
    changed = tx.session.execute(
        update(TrialRecord)
        .where(TrialRecord.id == trial_id, TrialRecord.status == TrialStatus.RUNNING)
        .values(**columns)
        .returning(TrialRecord.id)
        .execution_options(synchronize_session=False)
    )
    if changed.first() is None:
        return None
    query = with_versions().where(TrialRecord.id == trial_id).execution_options(populate_existing=True)
    return tx.session.scalars(query).one()
