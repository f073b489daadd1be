"""HTTP operations on enrolment tokens and sites."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query

from pfedbayespt.protocol import (
    Assignment,
    EnrolmentToken,
    EnrolmentTokenCreate,
    Page,
    ProblemType,
    SiteEnrol,
    SiteEnrolment,
    SiteLeave,
    SiteStatus,
)
from pfedbayespt.protocol import Site as SiteMessage
from pfedbayespt.server.auth import (
    EVERYBODY,
    Caller,
    Managing,
    Overseeing,
    Site,
    SiteCaller,
    Steering,
    may_see,
    visible_federation,
)
from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import NotFound
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.pages import OfStatus, PageDep
from pfedbayespt.server.paths import FederationName, SiteId
from pfedbayespt.server.sites import lifecycle, repository, service
from pfedbayespt.server.sites.assignment import assignment_of
from pfedbayespt.server.sites.models import SiteRecord

router = APIRouter(prefix="/v1", tags=["sites"])
_CHANGE = (ProblemType.NOT_FOUND, ProblemType.TRANSITION_NOT_ALLOWED)


@router.post(
    "/federations/{name}/enrolment-tokens",
    **documented(
        "Create an enrolment token",
        *_CHANGE,
        status=201,
    ),
)
def create_enrolment_token(
    name: FederationName, body: EnrolmentTokenCreate, context: ContextDep, caller: Managing
) -> EnrolmentToken:
    """Make a token that lets one site of one organisation join, once. It is shown this once only.

    The organisation takes part from now on. An organisation's own admin makes tokens for it alone.
    """
    with context.database.write(caller.actor) as tx:
        return service.create_token(
            tx, caller, visible_federation(tx, caller, name, lock=True), body, context.signer.key_id
        )


@router.post(
    "/sites",
    dependencies=[EVERYBODY],
    **documented(
        "Enrol a site",
        ProblemType.ENROLMENT_TOKEN_REFUSED,
        ProblemType.ALREADY_EXISTS,
        ProblemType.SIGNATURE_REJECTED,
        status=201,
        guarded=False,
    ),
)
def enrol_site(body: SiteEnrol, context: ContextDep) -> SiteEnrolment:
    """Redeem an enrolment token with the public key that the site made for itself, signed with that key."""
    with context.database.write("enrolment") as tx:
        enrolment = service.enrol(tx, body, context.signer)
    context.work.set()
    return enrolment


@router.get("/sites/me", **documented("Read the calling site"))
def read_own_site(context: ContextDep, caller: Site) -> SiteMessage:
    """Say who the caller is."""
    with context.database.read() as tx:
        return service.describe(service.find_own(tx, caller), caller.federation)


@router.get("/sites/me/assignment", **documented("Ask what to do"))
def read_assignment(context: ContextDep, caller: Site, afterwards: BackgroundTasks) -> Assignment:
    """Say what the calling site should do now: train, evaluate, wait, or nothing more. Also its heartbeat."""
    settings = context.settings
    every = timedelta(seconds=settings.heartbeat_seconds)
    with context.database.read() as tx:
        site = service.find_own(tx, caller)
        is_due = repository.is_due(site, tx.now, every)
        assignment = assignment_of(tx, site, settings.retry_after_seconds)
    if is_due:  # once it is answered: a write waits for those of others, and for the disk
        afterwards.add_task(_touch, context, caller, every)
    return assignment


def _touch(context: Context, caller: SiteCaller, every: timedelta) -> None:
    with context.database.write(caller.actor) as tx:
        repository.touch(tx, caller.site_id, every)


@router.post(
    "/sites/me/leave",
    **documented(
        "Leave the federation",
        ProblemType.SIGNATURE_REJECTED,
        ProblemType.TRANSITION_NOT_ALLOWED,
    ),
)
def leave_federation(body: SiteLeave, context: ContextDep, caller: Site) -> SiteMessage:
    """End the calling site's part in its federation, for good, signed with a live key; none is good after that.

    What it has submitted stays, because it was acknowledged; no round waits for it any more.
    """
    with context.database.write(caller.actor) as tx:
        site = service.leave(tx, caller, body)
        message = service.describe(site, site.federation.name)
    context.work.set()
    return message


@router.get("/federations/{name}/sites", **documented("List sites", ProblemType.NOT_FOUND))
def list_sites(
    name: FederationName,
    context: ContextDep,
    caller: Overseeing,
    page: PageDep,
    status: Annotated[SiteStatus | None, OfStatus] = None,
    organisation: Annotated[str | None, Query(description="Those of this one alone.")] = None,
) -> Page[SiteMessage]:
    """List the federation's sites, oldest first; an organisation's own admin sees its own alone."""
    with context.database.read() as tx:
        federation = visible_federation(tx, caller, name)
        tenant = caller.tenant_in(federation.id)
        if None not in {tenant, organisation} and tenant != organisation:
            raise NotFound(f"there is no organisation {organisation!r}")
        return service.list_page(tx, federation, page, organisation=tenant or organisation, status=status)


@router.post("/sites/{site_id}/suspend", **documented("Suspend a site", *_CHANGE))
def suspend_site(site_id: SiteId, context: ContextDep, caller: Steering) -> SiteMessage:
    """Shut a site out from its next request on, until it is reinstated."""
    return _change(context, caller, site_id, lifecycle.suspend)


@router.post("/sites/{site_id}/reinstate", **documented("Reinstate a site", *_CHANGE))
def reinstate_site(site_id: SiteId, context: ContextDep, caller: Steering) -> SiteMessage:
    """Let a suspended site take part again."""
    return _change(context, caller, site_id, lifecycle.reinstate)


@router.post("/sites/{site_id}/revoke", **documented("Revoke a site", *_CHANGE))
def revoke_site(site_id: SiteId, context: ContextDep, caller: Managing) -> SiteMessage:
    """Shut a site out for good. Its updates that are not aggregated yet are discarded."""
    return _change(context, caller, site_id, service.revoke)


def _change(
    context: Context, caller: Caller, site_id: str, change: Callable[[Transaction, SiteRecord], None]
) -> SiteMessage:
    with context.database.write(caller.actor) as tx:
        site = service.find(tx, site_id)
        if not may_see(caller, site.federation_id, site.organisation):
            raise NotFound(f"there is no site {site_id!r}")
        change(tx, site)
        message = service.describe(site, site.federation.name)
    context.work.set()
    return message
