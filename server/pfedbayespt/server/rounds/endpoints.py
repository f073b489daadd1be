"""HTTP operations on rounds."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter

from pfedbayespt.protocol import Page, ProblemType, Round, RoundStatus
from pfedbayespt.server.auth import Caller, Member, Steering, visible_federation
from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.pages import OfStatus, PageDep
from pfedbayespt.server.paths import FederationName, RoundId
from pfedbayespt.server.rounds import progress, service
from pfedbayespt.server.rounds.models import RoundRecord

router = APIRouter(prefix="/v1", tags=["rounds"])
_CHANGE = (ProblemType.NOT_FOUND, ProblemType.TRANSITION_NOT_ALLOWED)


@router.post(
    "/federations/{name}/rounds",
    **documented("Start a round now", *_CHANGE, status=201),
)
def start_round(name: FederationName, context: ContextDep, caller: Steering) -> Round:
    """Start a round by hand; those of `num_rounds` start by themselves."""
    with context.database.write(caller.actor) as tx:
        round_ = service.start(tx, visible_federation(tx, caller, name, lock=True))
        return service.describe(tx, round_)


@router.get("/federations/{name}/rounds", **documented("List rounds", ProblemType.NOT_FOUND))
def list_rounds(
    name: FederationName,
    context: ContextDep,
    caller: Member,
    page: PageDep,
    status: Annotated[RoundStatus | None, OfStatus] = None,
) -> Page[Round]:
    """List the federation's rounds, newest first."""
    with context.database.read() as tx:
        return service.list_page(tx, visible_federation(tx, caller, name), page, status)


@router.get("/rounds/{round_id}", **documented("Read a round", ProblemType.NOT_FOUND))
def read_round(round_id: RoundId, context: ContextDep, caller: Member) -> Round:
    """Read a round, as an admin or as a site of its federation."""
    with context.database.read() as tx:
        return service.describe(tx, service.find(tx, caller, round_id))


@router.post("/rounds/{round_id}/close", **documented("Close a round now", *_CHANGE))
def close_round(round_id: RoundId, context: ContextDep, caller: Steering) -> Round:
    """End collecting before the deadline and aggregate what is there, if that is a quorum."""
    deadline = timedelta(seconds=context.settings.aggregation_deadline_seconds)

    def close(tx: Transaction, round_: RoundRecord) -> None:
        progress.close(tx, round_, deadline)

    return _change(context, caller, round_id, close)


@router.post("/rounds/{round_id}/abandon", **documented("Abandon a round", *_CHANGE))
def abandon_round(round_id: RoundId, context: ContextDep, caller: Steering) -> Round:
    """End a live round without a result."""

    def abandon(tx: Transaction, round_: RoundRecord) -> None:
        service.abandon(tx, round_, "abandoned by an admin")

    return _change(context, caller, round_id, abandon)


def _change(
    context: Context, caller: Caller, round_id: str, change: Callable[[Transaction, RoundRecord], None]
) -> Round:
    with context.database.write(caller.actor) as tx:
        round_ = service.find(tx, caller, round_id, lock=True)
        change(tx, round_)
        message = service.describe(tx, round_)
    context.work.set()
    return message
