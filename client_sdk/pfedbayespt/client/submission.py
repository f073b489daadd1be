"""Handing a finished update to the coordinator, as often as it takes, always the same bytes."""

from pfedbayespt.client import events
from pfedbayespt.client.agreement import check_receipt
from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.client.coordinator import CoordinatorClient
from pfedbayespt.client.errors import (
    BodyTooLarge,
    NoOpenRound,
    NotFound,
    NotInCohort,
    ProblemError,
    RoundClosed,
    UpdateConflict,
    UpdateRejected,
    UpdateTooStale,
)
from pfedbayespt.client.outbox import Outbox, PendingUpdate
from pfedbayespt.client.state import StateDirectory
from pfedbayespt.protocol import Receipt, digest_of_bytes

_ROUND_IS_OVER = (RoundClosed, UpdateTooStale, NotInCohort, NotFound, UpdateConflict)
_UPDATE_IS_BAD = (UpdateRejected, BodyTooLarge)


def submit_pending(
    client: CoordinatorClient,
    identity: SiteIdentity,
    state: StateDirectory,
    outbox: Outbox,
    observer: events.Observer,
) -> bool:
    """Submit the update that waits in the outbox, if there is one; return whether the outbox is empty now.

    An update that the coordinator will never take is dropped and the round remembered. A late one stays until the
    round in which it counts is open. Anything else that goes wrong is raised and leaves the update where it is.

    Raises:
        ProblemError, TransportError: try again later.
        IntegrityError: the receipt is for other bytes, or not the coordinator's.
    """
    pending = outbox.pending()
    if pending is None:
        return True
    statement = identity.statement(pending.manifest, digest_of_bytes(pending.content))
    try:
        receipt = client.updates.submit(statement, pending.content)
    except NoOpenRound as error:
        observer(events.UpdateWaits(str(error)))
        return False
    except (*_ROUND_IS_OVER, *_UPDATE_IS_BAD) as error:
        _drop(state, outbox, pending, error)
        observer(events.UpdateNotTaken(str(error)))
        return True
    check_receipt(receipt, statement, state.enrolment.coordinator)
    _settle(state, outbox, pending, receipt)
    metrics = pending.manifest.metrics
    observer(
        events.UpdateSubmitted(
            receipt.update_id, receipt.digest, receipt.size_bytes, metrics, receipt.staleness
        )
    )
    return True


def _settle(state: StateDirectory, outbox: Outbox, pending: PendingUpdate, receipt: Receipt) -> None:
    """Remember the acknowledgement, then forget the update: what a kill or a full disk cuts short is done again."""
    progress, manifest = state.progress, pending.manifest
    if progress.last_round_id != manifest.round_id:
        state.keep_receipt(receipt)
        state.update_progress(
            rounds_contributed=progress.rounds_contributed + 1,
            last_round_id=manifest.round_id,
            last_metrics=dict(manifest.metrics),
        )
    outbox.acknowledged()


def _drop(state: StateDirectory, outbox: Outbox, pending: PendingUpdate, error: ProblemError) -> None:
    if isinstance(error, _UPDATE_IS_BAD):  # the same images would give the same update again
        state.update_progress(refused_round_id=pending.manifest.round_id)
    outbox.discard()
