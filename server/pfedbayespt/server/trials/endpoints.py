"""HTTP operations on trials."""

from fastapi import APIRouter

from pfedbayespt.protocol import Page, ProblemType, Trial, TrialCreate
from pfedbayespt.server.auth import Reading, Steering, visible_federation
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.pages import PageDep
from pfedbayespt.server.paths import FederationName, TrialId
from pfedbayespt.server.trials import service

router = APIRouter(prefix="/v1/federations/{name}/trials", tags=["predictions"])


@router.post(
    "",
    **documented(
        "Try a version",
        ProblemType.NOT_FOUND,
        ProblemType.NO_SERVING_VERSION,
        ProblemType.TRANSITION_NOT_ALLOWED,
        status=201,
    ),
)
def start_trial(name: FederationName, body: TrialCreate, context: ContextDep, caller: Steering) -> Trial:
    """Try a version beside the one that serves: let it answer a share of the requests, compare it, or both.

    The trial ends by itself beyond its bounds, and with every promotion.
    """
    with context.database.write(caller.actor) as tx:
        return service.start(tx, visible_federation(tx, caller, name, lock=True), body)


@router.get("", **documented("List trials", ProblemType.NOT_FOUND))
def list_trials(name: FederationName, context: ContextDep, caller: Reading, page: PageDep) -> Page[Trial]:
    """List the federation's trials and what each has shown, newest first."""
    with context.database.read() as tx:
        return service.list_page(tx, visible_federation(tx, caller, name), page)


@router.get("/{trial_id}", **documented("Read a trial", ProblemType.NOT_FOUND))
def read_trial(name: FederationName, trial_id: TrialId, context: ContextDep, caller: Reading) -> Trial:
    """Read a trial and what it has shown so far, written down about once a second."""
    with context.database.read() as tx:
        federation = visible_federation(tx, caller, name)
        return service.describe(service.find(tx, federation, trial_id), federation.name)


@router.post("/{trial_id}/stop", **documented("Stop a trial", ProblemType.NOT_FOUND))
def stop_trial(name: FederationName, trial_id: TrialId, context: ContextDep, caller: Steering) -> Trial:
    """End a trial: from the next request on the version that serves answers everybody. Safe to repeat."""
    with context.database.write(caller.actor) as tx:
        federation = visible_federation(tx, caller, name, lock=True)
        return service.stop(tx, federation, trial_id, caller.actor)
