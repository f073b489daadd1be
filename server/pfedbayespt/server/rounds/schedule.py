"""When a round starts by itself.

A federation that is active, set out to run `num_rounds`, has not published them all, has no live round and
has enough active sites gets the next round. One whose latest `MAX_HELD_IN_A_ROW` rounds were all held is
paused instead: going on would burn the sites' time on candidates that nobody may use, until somebody looks at
it and resumes.
"""

from typing import Final

from pfedbayespt.protocol import FederationStatus, RoundStatus
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import repository as events
from pfedbayespt.server.federations import lifecycle as federation_lifecycle
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.rounds import repository, service

MAX_HELD_IN_A_ROW: Final = 3


def start_if_due(tx: Transaction, federation: FederationRecord) -> bool:
    """Start the next round or pause the federation, if either is due; the federation is locked by the caller."""
    if not _wants_a_round(tx, federation):
        return False
    if _keeps_failing(tx, federation):
        reason = f"the latest {MAX_HELD_IN_A_ROW} rounds were all held"
        federation_lifecycle.pause(tx, federation, reason)
    else:
        service.start(tx, federation)
    return True


def _wants_a_round(tx: Transaction, federation: FederationRecord) -> bool:
    return (
        federation.status == FederationStatus.ACTIVE
        and federation.policy.num_rounds is not None
        and not service.is_finished(tx, federation)
        and repository.live(tx, federation.id) is None
        and len(repository.active_site_ids(tx, federation.id)) >= federation.policy.min_sites_to_start
    )


def _keeps_failing(tx: Transaction, federation: FederationRecord) -> bool:
    resumed_at = events.last_time(tx, federation.id, "federation.resumed")
    latest = repository.latest_statuses(tx, federation.id, MAX_HELD_IN_A_ROW, since=resumed_at)
    return len(latest) == MAX_HELD_IN_A_ROW and set(latest) == {RoundStatus.HELD}
