"""In which round an update counts: in the one it was made for or, if that is over, as `late_policy` says.

    drop         in none
    next_round   in the round of the next number, with its full weight
    buffer       in whichever round collects; it weighs (1 + staleness)^-staleness_weight of its share

Rules:
1. Staleness is the number of versions between the update's base and the round's base, counted along the parents: a
   version that was held is none of them. A base that is no ancestor was rolled back, and nothing is built on it.
2. An update that will count once the next round opens is asked to come again (`NoOpenRound`), so every update that
   has a receipt has a round. Only training updates can be late: statistics are of no use after their round.
"""

from dataclasses import dataclass
from datetime import datetime

from pfedbayespt.protocol import RoundStatus, RoundTask
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import NoOpenRound, RoundClosed, UpdateTooStale
from pfedbayespt.server.model_versions import repository as versions
from pfedbayespt.server.rounds import lifecycle, repository, service
from pfedbayespt.server.rounds.models import RoundRecord


@dataclass(frozen=True)
class Place:
    """The round in which an update counts, and how stale it is there."""

    round: RoundRecord
    staleness: int


def place_of(tx: Transaction, origin: RoundRecord) -> Place:
    """Return where an update that was made for `origin` counts if it arrives now.

    Raises:
        RoundClosed: nowhere any more.
        NoOpenRound: in a round that is yet to open.
        UpdateTooStale: its base is too old, or was rolled back.
    """
    if _collects(origin, tx.now):
        return Place(origin, 0)
    _check_may_be_late(tx, origin)
    live = repository.live(tx, origin.federation_id)
    is_open = live is not None and _collects(live, tx.now)
    staleness = _staleness(tx, origin, live if is_open else None)
    if live is None or not is_open:
        raise NoOpenRound(
            f"round {origin.id} is {origin.status}; the update will count in the next one, which is not open yet"
        )
    return Place(live, staleness)


def discount(round_: RoundRecord, staleness: int) -> float:
    """Return what an update's share is multiplied with: (1 + staleness)^-a."""
    mode = round_.federation.policy.asynchronous
    return 1.0 if mode is None else float((1.0 + staleness) ** -mode.staleness_weight)


def _collects(round_: RoundRecord, now: datetime) -> bool:
    return round_.status == RoundStatus.COLLECTING and not lifecycle.is_late(round_, now)


def _check_may_be_late(tx: Transaction, origin: RoundRecord) -> None:
    federation = origin.federation
    closed = f"round {origin.id} is {origin.status}; it took updates until {origin.deadline_at.isoformat()}"
    if federation.policy.late_policy == "drop" or origin.task != RoundTask.TRAINING:
        raise RoundClosed(closed)
    if service.is_finished(tx, federation):
        raise RoundClosed(f"{closed}, and no other round follows")
    latest = repository.next_number(tx, federation.id) - 1
    if federation.policy.late_policy == "next_round" and not _is_awaited(tx, origin, latest):
        raise RoundClosed(f"{closed}, and so is the next round, in which a late update counts")


def _is_awaited(tx: Transaction, origin: RoundRecord, latest: int) -> bool:
    """Whether the round after `origin` collects or is yet to come."""
    if latest == origin.number:
        return True
    live = repository.live(tx, origin.federation_id)
    return live is not None and live.number == origin.number + 1 and _collects(live, tx.now)


def _staleness(tx: Transaction, origin: RoundRecord, open_round: RoundRecord | None) -> int:
    """Count the versions since the update's base, up to the base of the open round or the version that serves."""
    policy = origin.federation.policy
    limit = policy.asynchronous.max_staleness if policy.asynchronous else 1
    present = open_round.base_version if open_round else versions.serving(tx, origin.federation_id)
    staleness = versions.distance(tx, present, origin.base_version_id, limit) if present else None
    if staleness is None:
        raise UpdateTooStale(
            f"the update starts from version {origin.base_version.number}, which is more than {limit} versions "
            f"behind version {present.number if present else 'none'}, or was rolled back"
        )
    return staleness
