"""What an admin may do from a page: one table of actions, each confirmed on a page of its own.

An action calls the very operation of the API, as the signed-in admin: the same rules hold, and the same events are
written, in that admin's name. Nothing changes with GET.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import Response

from pfedbayespt.protocol import (
    EnrolmentTokenCreate,
    Federation,
    FederationStatus,
    ModelVersion,
    ModelVersionStatus,
    Round,
    RoundStatus,
    Site,
    SiteStatus,
    Slug,
)
from pfedbayespt.server.auth import AdminCaller
from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.errors import NotFound
from pfedbayespt.server.federations import endpoints as federations
from pfedbayespt.server.model_versions import endpoints as versions
from pfedbayespt.server.paths import FederationName
from pfedbayespt.server.rounds import endpoints as rounds
from pfedbayespt.server.sites import endpoints as sites
from pfedbayespt.server.ui.pages import PageRoute
from pfedbayespt.server.ui.rendering import page, redirect
from pfedbayespt.server.ui.session import SessionDep, check_form, own_page

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
Perform = Callable[[Context, AdminCaller, str, str], object]


@dataclass(frozen=True)
class Action:
    """Something that can be done; `perform` takes the federation's name and the target's id."""

    label: str
    consequence: str
    perform: Perform
    is_grave: bool = False


@dataclass(frozen=True)
class Offer:
    """An action that is possible now, on this target, which people know as `name`."""

    key: str
    target: str
    name: str

    @property
    def action(self) -> Action:
        """Its row in the table."""
        return ACTIONS[self.key]


ACTIONS: Final[dict[str, Action]] = {
    "activate": Action(
        "Activate",
        "Sites may enrol and rounds may start.",
        lambda context, caller, name, _: federations.activate_federation(name, context, caller),
    ),
    "pause": Action(
        "Pause",
        "No new round starts; one that is under way goes on.",
        lambda context, caller, name, _: federations.pause_federation(name, context, caller),
    ),
    "resume": Action(
        "Resume",
        "Rounds start again.",
        lambda context, caller, name, _: federations.resume_federation(name, context, caller),
    ),
    "archive": Action(
        "Archive",
        "The federation ends for good. A live round is abandoned; versions and events can still be read.",
        lambda context, caller, name, _: federations.archive_federation(name, context, caller),
        is_grave=True,
    ),
    "start-round": Action(
        "Start a round",
        "The sites are asked for updates now.",
        lambda context, caller, name, _: rounds.start_round(name, context, caller),
    ),
    "close-round": Action(
        "Close the round",
        "No more updates are taken; what has been accepted is aggregated, if it is a quorum.",
        lambda context, caller, _, target: rounds.close_round(target, context, caller),
    ),
    "abandon-round": Action(
        "Abandon the round",
        "The round ends without a version, and its updates are discarded.",
        lambda context, caller, _, target: rounds.abandon_round(target, context, caller),
        is_grave=True,
    ),
    "promote": Action(
        "Promote",
        "The version answers predictions from now on. A live round is abandoned.",
        lambda context, caller, name, target: versions.promote_model_version(
            name, int(target), context, caller
        ),
    ),
    "roll-back": Action(
        "Roll back to this version",
        "The version answers predictions again, and the next round starts from it. A live round is abandoned.",
        lambda context, caller, name, target: versions.promote_model_version(
            name, int(target), context, caller
        ),
    ),
    "suspend": Action(
        "Suspend",
        "The site is shut out from its next request on, until it is reinstated.",
        lambda context, caller, _, target: sites.suspend_site(target, context, caller),
    ),
    "reinstate": Action(
        "Reinstate",
        "The site may take part again.",
        lambda context, caller, _, target: sites.reinstate_site(target, context, caller),
    ),
    "revoke": Action(
        "Revoke",
        "The site is shut out for good; its updates that are not aggregated yet are discarded.",
        lambda context, caller, _, target: sites.revoke_site(target, context, caller),
        is_grave=True,
    ),
}
_FEDERATION: Final = {
    FederationStatus.DRAFT: ("activate",),
    FederationStatus.ACTIVE: ("start-round", "pause"),
    FederationStatus.PAUSED: ("resume", "archive"),
    FederationStatus.ARCHIVED: (),
}
_SITE: Final = {
    SiteStatus.PENDING: (),
    SiteStatus.ACTIVE: ("suspend", "revoke"),
    SiteStatus.SUSPENDED: ("reinstate", "revoke"),
    SiteStatus.REVOKED: (),
}


def offers_for_federation(federation: Federation, live: Round | None) -> list[Offer]:
    """Return what can be done with a federation now."""
    too_soon = {"start-round"} if live else set()
    too_soon |= {"activate"} if federation.serving_version is None else set()  # no initial parameters yet
    keys = [key for key in _FEDERATION[federation.status] if key not in too_soon]
    offers = [Offer(key, federation.name, federation.name) for key in keys]
    return offers + (offers_for_round(federation, live) if live else [])


def offers_for_round(federation: Federation, round_: Round) -> list[Offer]:
    """Return what can be done with a round of `federation` now."""
    name = f"round {round_.round_number} of {federation.name}"
    is_quorate = round_.status == RoundStatus.COLLECTING and round_.updates_accepted >= round_.quorum
    keys = ["close-round"] if is_quorate else []
    keys += ["abandon-round"] if round_.status.is_live else []
    return [Offer(key, round_.round_id, name) for key in keys]


def offers_for_version(federation: Federation, version: ModelVersion) -> list[Offer]:
    """Return what can be done with a version of `federation` now."""
    key = {ModelVersionStatus.HELD: "promote", ModelVersionStatus.RETIRED: "roll-back"}.get(version.status)
    name = f"version {version.version_number} of {federation.name}"
    return [Offer(key, str(version.version_number), name)] if key else []


def offers_for_site(federation: Federation, site: Site) -> list[Offer]:
    """Return what can be done with a site of `federation` now."""
    name = f"site {site.site_name} of {federation.name}"
    return [Offer(key, site.site_id, name) for key in _SITE[site.status]]


@router.get("/federations/{name}/confirm")
def confirm(
    name: FederationName,
    request: Request,
    _: SessionDep,
    action: Annotated[str, Query(max_length=30)],
    target: Annotated[str, Query(max_length=64)],
    what: Annotated[str, Query(max_length=160)],
    back: Annotated[str, Query(max_length=200)] = "/ui",
) -> Response:
    """Ask whether it is meant; nothing has happened yet."""
    return page(
        request,
        "confirm.html",
        name=name,
        action=_find(action),
        key=action,
        target=target,
        what=what,
        back=own_page(back),
    )


@router.post("/federations/{name}/actions")
def act(
    name: FederationName,
    request: Request,
    context: ContextDep,
    session: SessionDep,
    action: Annotated[str, Form(max_length=30)],
    target: Annotated[str, Form(max_length=64)],
    csrf: Annotated[str, Form(max_length=64)],
    back: Annotated[str, Form(max_length=200)] = "/ui",
) -> Response:
    """Do what was confirmed, and go back to where it was asked for."""
    check_form(request, session, csrf)
    _find(action).perform(context, session.caller, name, target)
    return redirect(own_page(back))


@router.post("/federations/{name}/invitations")
def invite(
    name: FederationName,
    request: Request,
    context: ContextDep,
    session: SessionDep,
    organisation: Annotated[Slug, Form()],
    csrf: Annotated[str, Form(max_length=64)],
    hours: Annotated[int, Form(ge=1, le=72)] = 24,
) -> Response:
    """Make an enrolment token and show it, this once, in the command that redeems it."""
    check_form(request, session, csrf)
    body = EnrolmentTokenCreate(organisation=organisation, valid_seconds=hours * 3600)
    token = sites.create_enrolment_token(name, body, context, session.caller)
    url = str(request.base_url).rstrip("/")
    return page(request, "invitation.html", name=name, token=token, url=url)


def _find(key: str) -> Action:
    if key not in ACTIONS:
        raise NotFound(f"there is no action {key!r}; allowed: {', '.join(ACTIONS)}")
    return ACTIONS[key]
