"""What can be done with a round: start it, look at it, abandon it. How it goes on: `progress.py`.

The cohort: all active sites, or ceil(cohort_size * over_select_ratio) of them in the order of
SHA-256(round id, site id), which is as good as a draw and can be repeated by anyone. A round closes early once
cohort_size updates are accepted; in asynchronous mode, a training round once buffer_size are.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy.exc import IntegrityError

from pfedbayespt.protocol import (
    FederationStatus,
    Page,
    Round,
    RoundPolicy,
    RoundStatus,
    RoundTask,
    UpdateStatus,
)
from pfedbayespt.server.auth import Caller
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import LostRace, NotFound, TransitionNotAllowed
from pfedbayespt.server.failpoints import failpoint
from pfedbayespt.server.federations import repository as federations
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.identifiers import new_id
from pfedbayespt.server.model_versions import repository as versions
from pfedbayespt.server.model_versions import service as version_service
from pfedbayespt.server.pages import Order, PageRequest, fetch_page, matching
from pfedbayespt.server.rounds import lifecycle, repository
from pfedbayespt.server.rounds.models import RoundRecord, RoundSite
from pfedbayespt.server.updates import lifecycle as updates

_NEWEST_FIRST = Order((RoundRecord.number,), newest_first=True)
# An update that was accepted stays counted, whatever became of it later.
_COUNTED = (UpdateStatus.ACCEPTED, UpdateStatus.AGGREGATED, UpdateStatus.DISCARDED)


def start(tx: Transaction, federation: FederationRecord) -> RoundRecord:
    """Start a round; the federation is locked by the caller.

    Raises:
        TransitionNotAllowed: it is not active, has a live round, or too few active sites.
        LostRace: another worker has started one.
    """
    sites = repository.active_site_ids(tx, federation.id)
    _check_may_start(tx, federation, len(sites))
    base = versions.serving(tx, federation.id)
    if base is None:
        raise TransitionNotAllowed(f"federation {federation.name!r} has no serving version to start from")
    round_id, policy, task = new_id("rnd"), federation.policy, task_of_next(tx, federation)
    cohort = choose_cohort(round_id, sites, policy)
    round_ = RoundRecord(
        id=round_id,
        federation_id=federation.id,
        number=repository.next_number(tx, federation.id),
        task=task,
        status=lifecycle.LIFECYCLE.initial,
        base_version_id=base.id,
        quorum=policy.quorum,
        target_updates=min(_wanted_updates(policy, task) or len(cohort), len(cohort)),
        started_at=tx.now,
        deadline_at=tx.now + timedelta(seconds=policy.deadline_seconds),
        cohort=[RoundSite(site_id=site_id) for site_id in cohort],
    )
    _insert(tx, round_)
    lifecycle.open_(tx, round_, timedelta(seconds=policy.deadline_seconds))
    failpoint("round.before_commit")
    return round_


def _wanted_updates(policy: RoundPolicy, task: RoundTask) -> int | None:
    """Return how many updates close a round; None: those of all its sites."""
    if policy.asynchronous is not None and task == RoundTask.TRAINING:
        return policy.asynchronous.buffer_size
    return policy.cohort_size


def choose_cohort(round_id: str, sites: Sequence[str], policy: RoundPolicy) -> list[str]:
    """Return the sites that are asked in the round."""
    if policy.cohort_size is None:
        return sorted(sites)
    asked = math.ceil(policy.cohort_size * policy.over_select_ratio)
    drawn = sorted(sites, key=lambda site: hashlib.sha256(f"{round_id}:{site}".encode()).digest())
    return sorted(drawn[:asked])


def task_of_next(tx: Transaction, federation: FederationRecord) -> RoundTask:
    """Return `statistics` until one such round is published, then `training`."""
    done = federations.count_published(tx, federation.id, RoundTask.STATISTICS)
    return RoundTask.TRAINING if done else RoundTask.STATISTICS


def is_finished(tx: Transaction, federation: FederationRecord) -> bool:
    """Whether the federation has published all the training rounds it set out to run, or is archived."""
    if federation.status == FederationStatus.ARCHIVED:
        return True
    wanted = federation.policy.num_rounds
    done = federations.count_published(tx, federation.id, RoundTask.TRAINING)
    return wanted is not None and done >= wanted


def abandon(tx: Transaction, round_: RoundRecord, reason: str) -> None:
    """End a live round without a version: its waiting updates are discarded, its candidate is held."""
    candidate = round_.result
    lifecycle.abandon(tx, round_, reason)
    for update in repository.accepted_updates(tx, round_.id):
        updates.discard(tx, update, round_.federation_id, f"round_abandoned: {reason}")
    if candidate is not None and version_service.is_candidate(candidate):
        version_service.hold(tx, candidate)


def abandon_live(tx: Transaction, federation: FederationRecord, reason: str) -> None:
    """Abandon the federation's live round, if it has one."""
    round_ = repository.live(tx, federation.id)
    if round_ is not None:
        abandon(tx, round_, reason)


def find(tx: Transaction, caller: Caller, round_id: str, *, lock: bool = False) -> RoundRecord:
    """Return a round; with `lock`, after locking its federation.

    Raises:
        NotFound: there is none, or the caller is a site of another federation.
    """
    round_ = repository.by_id(tx, round_id)
    if round_ is None or not caller.belongs_to(round_.federation_id):
        raise NotFound(f"there is no round {round_id!r}")
    if lock:
        federations.lock(tx, round_.federation_id)
        tx.session.refresh(round_)
    return round_


def list_page(
    tx: Transaction, federation: FederationRecord, request: PageRequest, status: RoundStatus | None = None
) -> Page[Round]:
    """Return a page of the federation's rounds, of one status if it is given, newest first."""

    def to_messages(rows: Sequence[RoundRecord]) -> list[Round]:
        return describe_all(tx, rows)

    query = repository.with_relations().where(RoundRecord.federation_id == federation.id)
    return fetch_page(tx, matching(query, status=status), _NEWEST_FIRST, request, to_messages)


def describe(tx: Transaction, round_: RoundRecord) -> Round:
    """Return the round's message."""
    return describe_all(tx, [round_])[0]


def describe_for(tx: Transaction, round_: RoundRecord, site_id: str) -> Round:
    """Return the round's message for an assignment; of the cohort it names this site alone.

    So an assignment costs the same however many sites are asked.
    """
    return _describe(round_, repository.update_counts(tx, [round_.id]), (site_id,))


def describe_all(tx: Transaction, rounds: Sequence[RoundRecord]) -> list[Round]:
    """Return the messages of several rounds."""
    ids = [round_.id for round_ in rounds]
    counts, cohorts = repository.update_counts(tx, ids), repository.cohorts(tx, ids)
    return [_describe(round_, counts, tuple(cohorts[round_.id])) for round_ in rounds]


def _describe(
    round_: RoundRecord, counts: Mapping[tuple[str, UpdateStatus], int], cohort: tuple[str, ...]
) -> Round:
    return Round(
        round_id=round_.id,
        federation=round_.federation.name,
        round_number=round_.number,
        task=round_.task,
        status=round_.status,
        base_version=round_.base_version.number,
        base_digest=round_.base_version.digest,
        result_version=round_.result.number if round_.result else None,
        quorum=round_.quorum,
        cohort=cohort,
        updates_accepted=sum(counts.get((round_.id, status), 0) for status in _COUNTED),
        updates_quarantined=counts.get((round_.id, UpdateStatus.QUARANTINED), 0),
        abandoned_reason=round_.abandoned_reason,
        started_at=round_.started_at,
        deadline_at=round_.deadline_at,
        finished_at=round_.finished_at,
    )


def _check_may_start(tx: Transaction, federation: FederationRecord, num_sites: int) -> None:
    if federation.status != FederationStatus.ACTIVE:
        raise TransitionNotAllowed(
            f"federation {federation.name!r} is {federation.status}; rounds start in an active one"
        )
    if (other := repository.live(tx, federation.id)) is not None:
        raise TransitionNotAllowed(
            f"round {other.id} of federation {federation.name!r} is {other.status}; one at a time"
        )
    needed = federation.policy.min_sites_to_start
    if num_sites < needed:
        raise TransitionNotAllowed(
            f"federation {federation.name!r} has {num_sites} active sites; a round needs {needed}"
        )


def _insert(tx: Transaction, round_: RoundRecord) -> None:
    tx.session.add(round_)
    try:
        tx.session.flush()
    except IntegrityError as error:
        raise LostRace("another worker has started a round at the same time") from error
