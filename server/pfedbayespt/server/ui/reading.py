"""Pages for reading: federations, a federation, its rounds, versions, sites and events."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeVar

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from pfedbayespt.protocol import Federation, Message, ModelVersion, Page, Round, RoundStatus, Site, Update
from pfedbayespt.server.auth import visible_federation
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import NotFound
from pfedbayespt.server.events import service as events
from pfedbayespt.server.federations import service as federations
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.model_versions import service as versions
from pfedbayespt.server.pages import PageRequest
from pfedbayespt.server.paths import FederationName, VersionNumber
from pfedbayespt.server.rounds import service as rounds
from pfedbayespt.server.sites import service as sites
from pfedbayespt.server.ui.acting import (
    Offer,
    offers_for_federation,
    offers_for_round,
    offers_for_site,
    offers_for_version,
)
from pfedbayespt.server.ui.geometry import directions_of
from pfedbayespt.server.ui.lineage import lineage_of
from pfedbayespt.server.ui.pages import PageRoute
from pfedbayespt.server.ui.rendering import page, redirect
from pfedbayespt.server.ui.series import curves_of
from pfedbayespt.server.ui.session import Session, SessionDep
from pfedbayespt.server.ui.timeline import Timeline, timeline_of
from pfedbayespt.server.updates import service as updates

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
MAX_SHOWN: Final = 400
"""Rows of a list that a page shows; the API has the rest."""
_PAGE: Final = 200
RoundNumber = Annotated[int, Path(ge=1, lt=2**31)]
Item = TypeVar("Item", bound=Message)


@dataclass(frozen=True)
class Overview:
    """A federation and what belongs to it, newest first, as one transaction saw it."""

    federation: Federation
    rounds: list[Round]
    versions: list[ModelVersion]
    sites: list[Site]

    @property
    def live(self) -> Round | None:
        """The round that is under way."""
        return next((round_ for round_ in self.rounds if round_.status.is_live), None)


@router.get("")
def home(_: SessionDep) -> Response:
    """Go to the first page."""
    return redirect("/ui/federations")


@router.get("/federations")
def show_federations(request: Request, context: ContextDep, session: SessionDep) -> Response:
    """List the federations, each with what is going on in it."""
    with context.database.read() as tx:
        listed = everything(lambda page_: federations.list_page(tx, page_))
        latest = {each.name: _latest_round(tx, session, each.name) for each in listed}
    return page(request, "federations.html", federations=listed, latest=latest)


@router.get("/federations/{name}")
def show_federation(
    name: FederationName, request: Request, context: ContextDep, session: SessionDep
) -> Response:
    """Show how a federation stands: its live round, its curves, its latest rounds."""
    with context.database.read() as tx:
        seen = overview_of(tx, session, name)
        shown = seen.live or (seen.rounds[0] if seen.rounds else None)
        timeline = _timeline(tx, request, seen, shown)[0] if shown else None
    return page(
        request,
        "federation.html",
        seen=seen,
        round=shown,
        timeline=timeline,
        curves=curves_of(seen.versions),
        offers=offers_for_federation(seen.federation, seen.live),
        current="overview",
    )


@router.get("/federations/{name}/rounds/{number}")
def show_round(
    name: FederationName, number: RoundNumber, request: Request, context: ContextDep, session: SessionDep
) -> Response:
    """Show a round: who was asked, what came, why something was refused, and where the updates point."""
    with context.database.read() as tx:
        seen = overview_of(tx, session, name)
        round_ = next((each for each in seen.rounds if each.round_number == number), None)
        if round_ is None:
            raise NotFound(f"federation {name!r} has no round {number}, or it is long past; ask the API")
        timeline, listed = _timeline(tx, request, seen, round_)
    return page(
        request,
        "round.html",
        seen=seen,
        round=round_,
        timeline=timeline,
        updates=listed,
        site_names={site.site_id: site.site_name for site in seen.sites},
        directions=directions_of(context.blobs, listed),
        offers=offers_for_round(seen.federation, round_),
        current="rounds",
    )


@router.get("/federations/{name}/versions")
def show_versions(
    name: FederationName, request: Request, context: ContextDep, session: SessionDep
) -> Response:
    """Show where the versions come from and how they compare."""
    with context.database.read() as tx:
        seen = overview_of(tx, session, name)
    return page(
        request,
        "versions.html",
        seen=seen,
        lineage=lineage_of(seen.versions),
        curves=curves_of(seen.versions),
        current="versions",
    )


@router.get("/federations/{name}/versions/{number}")
def show_version(
    name: FederationName, number: VersionNumber, request: Request, context: ContextDep, session: SessionDep
) -> Response:
    """Show one version: its lineage, what sites report of it, and whether it can serve."""
    with context.database.read() as tx:
        seen = overview_of(tx, session, name)
        federation = visible_federation(tx, session.caller, name)
        version = versions.describe(versions.find(tx, federation, number, lineage=True), name)
        held = _held_for(tx, federation, version)
    site_names = {site.site_id: site.site_name for site in seen.sites}
    return page(
        request,
        "version.html",
        seen=seen,
        version=version,
        held_for=_named(held, site_names),
        round=next((each for each in seen.rounds if each.round_id == version.round_id), None),
        site_names=site_names,
        offers=offers_for_version(seen.federation, version),
        current="versions",
    )


@router.get("/federations/{name}/sites")
def show_sites(name: FederationName, request: Request, context: ContextDep, session: SessionDep) -> Response:
    """Show the sites, and a form to invite an organisation."""
    with context.database.read() as tx:
        seen = overview_of(tx, session, name)
        now = tx.now
    offers: dict[str, list[Offer]] = {
        site.site_id: offers_for_site(seen.federation, site) for site in seen.sites
    }
    return page(request, "sites.html", seen=seen, offers=offers, now=now, current="sites")


def overview_of(tx: Transaction, session: Session, name: str) -> Overview:
    """Return what the pages of a federation show.

    Raises:
        NotFound: there is none of that name.
    """
    record = visible_federation(tx, session.caller, name)

    def listed(list_page: Callable[[Transaction, FederationRecord, PageRequest], Page[Item]]) -> list[Item]:
        return everything(lambda request: list_page(tx, record, request))

    return Overview(
        federation=federations.describe(tx, record),
        rounds=listed(rounds.list_page),
        versions=listed(versions.list_page),
        sites=listed(sites.list_page),
    )


def everything(read: Callable[[PageRequest], Page[Item]]) -> list[Item]:
    """Return what a list holds, at most `MAX_SHOWN` of it."""
    items: list[Item] = []
    request = PageRequest(limit=_PAGE)
    while len(items) < MAX_SHOWN:
        answer = read(request)
        items += answer.items
        if answer.next_cursor is None:
            break
        request = PageRequest(answer.next_cursor, _PAGE)
    return items


def _latest_round(tx: Transaction, session: Session, name: str) -> Round | None:
    record = visible_federation(tx, session.caller, name)
    return next(iter(rounds.list_page(tx, record, PageRequest(limit=1)).items), None)


def _held_for(tx: Transaction, federation: FederationRecord, version: ModelVersion) -> str:
    """Return why the version was not promoted when its round ended, nothing if it was."""
    if version.round_id is None:
        return ""
    wanted = events.EventFilter(action="round.held", subject=version.round_id)
    held = events.list_page(tx, federation, PageRequest(limit=1), wanted).items
    return str(held[0].details["reason"]) if held else ""


def _named(text: str, names: Mapping[str, str]) -> str:
    """Return `text` with each site called by its name instead of its id."""
    for site_id, name in names.items():
        text = text.replace(site_id, name)
    return text


def _timeline(
    tx: Transaction, request: Request, seen: Overview, round_: Round
) -> tuple[Timeline, list[Update]]:
    record = rounds.find(tx, request.state.session.caller, round_.round_id)
    listed = everything(lambda page_: updates.list_page(tx, record, page_))
    result = next((each for each in seen.versions if each.round_id == round_.round_id), None)
    uploading = _uploading(request, round_) if round_.status == RoundStatus.COLLECTING else []
    timeline = timeline_of(
        round_,
        {site.site_id: site for site in seen.sites},
        listed,
        result.evaluations if result else (),
        uploading,
        tx.now,
    )
    return timeline, listed


def _uploading(request: Request, round_: Round) -> Sequence[str]:
    return [site for round_id, site in list(request.app.state.ui_uploads) if round_id == round_.round_id]
