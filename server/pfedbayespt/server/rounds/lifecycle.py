"""The round's lifecycle, and the verbs that are the only writers of its status.

Every live state has `deadline_at`; the worker ends each state by then, so nothing waits for ever.
"""

from datetime import datetime, timedelta
from typing import Final

from pfedbayespt.protocol import RoundStatus as S
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import service as events
from pfedbayespt.server.lifecycle import Lifecycle, advance, verb
from pfedbayespt.server.rounds.models import RoundRecord

LIFECYCLE: Final = Lifecycle(
    subject="round",
    initial=S.PENDING,
    verbs={
        "open": verb({S.PENDING}, S.COLLECTING),
        "close": verb({S.COLLECTING}, S.AGGREGATING),
        "recompose": verb({S.AGGREGATING}, S.AGGREGATING),
        "propose": verb({S.AGGREGATING}, S.EVALUATING),
        "publish": verb({S.EVALUATING}, S.PUBLISHED),
        "hold": verb({S.EVALUATING}, S.HELD),
        "abandon": verb({status for status in S if status.is_live}, S.ABANDONED),
    },
)


def open_(tx: Transaction, round_: RoundRecord, deadline: timedelta) -> None:
    """Pending -> collecting: the cohort is asked for updates until the deadline."""
    advance(tx, LIFECYCLE, round_, "open", deadline_at=tx.now + deadline)
    events.record(
        tx,
        round_.federation_id,
        "round.started",
        round_.id,
        round_number=round_.number,
        task=round_.task,
        sites_asked=len(round_.cohort),
    )


def close(tx: Transaction, round_: RoundRecord, deadline: timedelta) -> None:
    """Collecting -> aggregating: no more updates; what is accepted now is the input."""
    advance(tx, LIFECYCLE, round_, "close", deadline_at=tx.now + deadline)
    events.record(tx, round_.federation_id, "round.closed", round_.id)


def recompose(tx: Transaction, round_: RoundRecord, discarded: int) -> None:
    """Aggregating -> aggregating: an input's file is damaged; whoever works on the old inputs is fenced off."""
    advance(tx, LIFECYCLE, round_, "recompose")
    events.record(tx, round_.federation_id, "round.recomposed", round_.id, discarded=discarded)


def propose(tx: Transaction, round_: RoundRecord, number: int, deadline: timedelta) -> None:
    """Aggregating -> evaluating: the candidate is there and awaits the sites' evaluations until the deadline."""
    advance(tx, LIFECYCLE, round_, "propose", deadline_at=tx.now + deadline)
    events.record(tx, round_.federation_id, "round.aggregated", round_.id, version_number=number)


def publish(tx: Transaction, round_: RoundRecord, number: int) -> None:
    """Evaluating -> published: its version answers from now on."""
    advance(tx, LIFECYCLE, round_, "publish", finished_at=tx.now)
    events.record(tx, round_.federation_id, "round.published", round_.id, version_number=number)


def hold(tx: Transaction, round_: RoundRecord, number: int, reason: str) -> None:
    """Evaluating -> held: the candidate failed its gate; its parent goes on serving."""
    advance(tx, LIFECYCLE, round_, "hold", finished_at=tx.now)
    events.record(tx, round_.federation_id, "round.held", round_.id, version_number=number, reason=reason)


def abandon(tx: Transaction, round_: RoundRecord, reason: str) -> None:
    """Any live state -> abandoned."""
    advance(tx, LIFECYCLE, round_, "abandon", finished_at=tx.now, abandoned_reason=reason)
    events.record(tx, round_.federation_id, "round.abandoned", round_.id, reason=reason)


def is_late(round_: RoundRecord, now: datetime) -> bool:
    """Whether the present state should have ended by `now`."""
    return round_.deadline_at <= now
