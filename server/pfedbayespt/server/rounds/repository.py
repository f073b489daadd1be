"""Queries on `rounds`, their cohorts and inputs."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import joinedload

from pfedbayespt.protocol import FederationStatus, RoundStatus, SiteStatus, UpdateStatus
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.model_versions.models import EvaluationRecord
from pfedbayespt.server.rounds.models import RoundInput, RoundRecord, RoundSite
from pfedbayespt.server.sites.models import SiteRecord
from pfedbayespt.server.updates.models import UpdateRecord

_LIVE = [status for status in RoundStatus if status.is_live]


def with_relations() -> Select[RoundRecord]:
    """Return the query for rounds and all that their messages need, but for their cohorts (`cohorts`).

    Every request of a site looks at its round, so what is read here must not grow with the number of sites.
    """
    return select(RoundRecord).options(
        joinedload(RoundRecord.federation),
        joinedload(RoundRecord.base_version),
        joinedload(RoundRecord.result),
    )


def by_id(tx: Transaction, round_id: str) -> RoundRecord | None:
    """Return a round, if there is one of that id."""
    return tx.session.scalars(with_relations().where(RoundRecord.id == round_id)).one_or_none()


def live(tx: Transaction, federation_id: str) -> RoundRecord | None:
    """Return the federation's live round, if it has one."""
    query = with_relations().where(RoundRecord.federation_id == federation_id, RoundRecord.status.in_(_LIVE))
    return tx.session.scalars(query).one_or_none()


def idle_federation_ids(tx: Transaction) -> Sequence[str]:
    """Return the ids of the active federations that have no live round, oldest first."""
    is_live = exists().where(RoundRecord.federation_id == FederationRecord.id, RoundRecord.status.in_(_LIVE))
    query = select(FederationRecord.id).where(FederationRecord.status == FederationStatus.ACTIVE, ~is_live)
    return tx.session.scalars(query.order_by(FederationRecord.created_at)).all()


def all_live_ids(tx: Transaction) -> Sequence[str]:
    """Return the ids of all live rounds, oldest first."""
    query = select(RoundRecord.id).where(RoundRecord.status.in_(_LIVE)).order_by(RoundRecord.started_at)
    return tx.session.scalars(query).all()


def next_number(tx: Transaction, federation_id: str) -> int:
    """Return the number that the federation's next round gets."""
    query = select(func.max(RoundRecord.number)).where(RoundRecord.federation_id == federation_id)
    return (tx.session.scalars(query).one() or 0) + 1


def latest_statuses(
    tx: Transaction, federation_id: str, limit: int, since: datetime | None
) -> Sequence[RoundStatus]:
    """Return the statuses of the federation's latest rounds that started after `since`, newest first."""
    query = select(RoundRecord.status).where(RoundRecord.federation_id == federation_id)
    if since is not None:
        query = query.where(RoundRecord.started_at > since)
    return tx.session.scalars(query.order_by(RoundRecord.number.desc()).limit(limit)).all()


def active_site_ids(tx: Transaction, federation_id: str) -> Sequence[str]:
    """Return the ids of the federation's active sites."""
    query = select(SiteRecord.id).where(
        SiteRecord.federation_id == federation_id, SiteRecord.status == SiteStatus.ACTIVE
    )
    return tx.session.scalars(query.order_by(SiteRecord.id)).all()


def cohorts(tx: Transaction, round_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the ids of the sites that are asked in each round, sorted."""
    query = select(RoundSite.round_id, RoundSite.site_id).where(RoundSite.round_id.in_(round_ids))
    asked: dict[str, list[str]] = {round_id: [] for round_id in round_ids}
    for round_id, site_id in tx.session.execute(query.order_by(RoundSite.site_id)):
        asked[round_id].append(site_id)
    return asked


def is_in_cohort(tx: Transaction, round_id: str, site_id: str) -> bool:
    """Whether the site is asked in the round."""
    return tx.session.get(RoundSite, (round_id, site_id)) is not None


def accepted_updates(tx: Transaction, round_id: str) -> Sequence[UpdateRecord]:
    """Return the round's accepted updates in digest order, equal digests in the order of sites."""
    query = select(UpdateRecord).where(
        UpdateRecord.round_id == round_id, UpdateRecord.status == UpdateStatus.ACCEPTED
    )
    return tx.session.scalars(query.order_by(UpdateRecord.digest, UpdateRecord.site_id)).all()


def count_accepted(tx: Transaction, round_id: str) -> int:
    """Return how many accepted updates the round has."""
    return update_counts(tx, [round_id]).get((round_id, UpdateStatus.ACCEPTED), 0)


def awaits_updates(tx: Transaction, round_id: str) -> bool:
    """Whether an active site of the cohort has yet to submit."""
    submitted = exists().where(
        UpdateRecord.round_id == round_id,
        UpdateRecord.site_id == RoundSite.site_id,
        UpdateRecord.status != UpdateStatus.QUARANTINED,
    )
    return tx.session.scalars(_active_cohort(round_id).where(~submitted).limit(1)).first() is not None


def contributes(tx: Transaction, round_id: str, site_id: str) -> bool:
    """Whether an update of the site is among the round's inputs."""
    query = select(RoundInput.update_id).join(UpdateRecord, UpdateRecord.id == RoundInput.update_id)
    query = query.where(RoundInput.round_id == round_id, UpdateRecord.site_id == site_id)
    return tx.session.scalars(query).first() is not None


def awaits_evaluations(tx: Transaction, round_id: str, version_id: str, *, of_contributors: bool) -> bool:
    """Whether an active site of the cohort, or of those behind the version, has yet to evaluate it."""
    evaluated = exists().where(
        EvaluationRecord.version_id == version_id, EvaluationRecord.site_id == RoundSite.site_id
    )
    asked = _active_cohort(round_id).where(~evaluated)
    if of_contributors:
        asked = asked.join(UpdateRecord, UpdateRecord.site_id == RoundSite.site_id)
        asked = asked.join(RoundInput, RoundInput.update_id == UpdateRecord.id)
        asked = asked.where(RoundInput.round_id == round_id)
    return tx.session.scalars(asked.limit(1)).first() is not None


def update_counts(tx: Transaction, round_ids: Sequence[str]) -> dict[tuple[str, UpdateStatus], int]:
    """Return how many updates of each status each round has, where there are any."""
    query = (
        select(UpdateRecord.round_id, UpdateRecord.status, func.count())
        .where(UpdateRecord.round_id.in_(round_ids))
        .group_by(UpdateRecord.round_id, UpdateRecord.status)
    )
    return {(round_id, status): count for round_id, status, count in tx.session.execute(query)}


def _active_cohort(round_id: str) -> Select[str]:
    return (
        select(RoundSite.site_id)
        .join(SiteRecord, SiteRecord.id == RoundSite.site_id)
        .where(RoundSite.round_id == round_id, SiteRecord.status == SiteStatus.ACTIVE)
    )
