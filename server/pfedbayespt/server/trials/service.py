"""What can be done with trials: start one, stop it, read it, and judge it by what was seen.

Rules:
1. A federation tries one version at a time, never the one that serves.
2. A promotion ends the trial: what was seen compares with a version that serves no more.
3. Each bound holds once `min_requests` were tried or compared; whoever adds what trips it ends the trial, in the
   transaction that adds.
"""

from collections.abc import Sequence

from sqlalchemy import select

from pfedbayespt.protocol import Page, Trial, TrialCreate, TrialTally, TrialTerms
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import NoServingVersion, NotFound, TransitionNotAllowed
from pfedbayespt.server.events import service as events
from pfedbayespt.server.federations import repository as federations
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.identifiers import new_id
from pfedbayespt.server.model_versions import repository as versions
from pfedbayespt.server.pages import Order, PageRequest, fetch_page
from pfedbayespt.server.trials import lifecycle, repository
from pfedbayespt.server.trials.models import TrialRecord
from pfedbayespt.server.trials.tallies import Tally

_NEWEST_FIRST = Order((TrialRecord.started_at, TrialRecord.id), newest_first=True)


def start(tx: Transaction, federation: FederationRecord, request: TrialCreate) -> Trial:
    """Begin to try a version; the federation is locked.

    Raises:
        NotFound: there is no such version.
        NoServingVersion: none serves that it could be tried beside.
        TransitionNotAllowed: it serves, or another trial is under way.
    """
    serving = versions.serving(tx, federation.id)
    if serving is None:
        raise NoServingVersion(f"federation {federation.name!r} has no model version that serves yet")
    version = versions.by_number(tx, federation.id, request.model_version)
    if version is None:
        raise NotFound(f"federation {federation.name!r} has no model version {request.model_version}")
    if serving.id == version.id:
        raise TransitionNotAllowed(f"model version {version.number} serves; try another one beside it")
    live = repository.running(tx, federation.id)
    if live is not None:
        raise TransitionNotAllowed(f"version {live.version.number} is on trial ({live.id}); stop that first")
    record = TrialRecord(
        id=new_id("trl"),
        federation_id=federation.id,
        version_id=version.id,
        serving_version_id=serving.id,
        status=lifecycle.LIFECYCLE.initial,
        terms=request.model_dump(mode="json", exclude={"model_version"}),
        started_at=tx.now,
    )
    tx.session.add(record)
    tx.session.flush()
    events.record(
        tx, federation.id, "trial.started", record.id, version_number=version.number, **record.terms
    )
    return describe(record, federation.name)


def stop(tx: Transaction, federation: FederationRecord, trial_id: str, actor: str) -> Trial:
    """End a trial by hand; one that has ended stays as it is. The federation is locked.

    Raises:
        NotFound: the federation has no such trial.
    """
    record = find(tx, federation, trial_id)
    if record.finished_at is None:
        lifecycle.stop(tx, record, f"stopped by {actor}")
    return describe(record, federation.name)


def find(tx: Transaction, federation: FederationRecord, trial_id: str) -> TrialRecord:
    """Return a federation's trial.

    Raises:
        NotFound: it has none of that id.
    """
    record = tx.session.scalars(repository.with_versions().where(TrialRecord.id == trial_id)).one_or_none()
    if record is None or record.federation_id != federation.id:
        raise NotFound(f"federation {federation.name!r} has no trial {trial_id!r}")
    return record


def list_page(tx: Transaction, federation: FederationRecord, request: PageRequest) -> Page[Trial]:
    """Return a page of the federation's trials, newest first."""

    def to_messages(rows: Sequence[TrialRecord]) -> list[Trial]:
        return [describe(row, federation.name) for row in rows]

    query = repository.with_versions().where(TrialRecord.federation_id == federation.id)
    return fetch_page(tx, query, _NEWEST_FIRST, request, to_messages)


def add(tx: Transaction, trial_id: str, seen: Tally) -> None:
    """Add what one process has seen, and end the trial if that trips a bound."""
    federation_id = tx.session.scalars(
        select(TrialRecord.federation_id).where(TrialRecord.id == trial_id)
    ).one_or_none()
    if federation_id is None:
        return
    federations.lock(tx, federation_id)
    record = repository.add(tx, trial_id, seen)
    reason = None if record is None else tripped_bound(record)
    if record is not None and reason is not None:
        lifecycle.trip(tx, record, reason)


def tripped_bound(record: TrialRecord) -> str | None:
    """Return which bound the sums are beyond, None if they are within all."""
    terms = TrialTerms.model_validate(record.terms)
    tried, compared = record.num_tried, record.num_compared
    shares = (
        ("error share", record.num_errors, tried, terms.max_error_share),
        ("share of other labels", record.num_flips, compared, terms.max_flip_share),
        ("mean distance", record.sum_distance, compared, terms.max_mean_distance),
    )
    for name, total, count, bound in shares:
        if count >= terms.min_requests and total > bound * count:
            return f"{name} {total / count:.3f} of {count} is above {bound:g}"
    return None


def describe(record: TrialRecord, federation: str) -> Trial:
    """Return the trial's message."""
    compared = record.num_compared

    def mean(total: float) -> float | None:
        return total / compared if compared else None

    distance = mean(record.sum_distance)
    return Trial(
        trial_id=record.id,
        federation=federation,
        model_version=record.version.number,
        serving_version=record.serving_version.number,
        status=record.status,
        terms=TrialTerms.model_validate(record.terms),
        tally=TrialTally(
            num_tried=record.num_tried,
            num_errors=record.num_errors,
            num_answered=record.num_answered,
            num_compared=compared,
            num_flips=record.num_flips,
            num_skipped=record.num_skipped,
            mean_distance=None if distance is None else min(distance, 1.0),
            mean_trial_seconds=mean(record.sum_trial_seconds),
            mean_serving_seconds=mean(record.sum_serving_seconds),
        ),
        reason=record.reason,
        started_at=record.started_at,
        finished_at=record.finished_at,
    )
