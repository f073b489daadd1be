"""Searching a federation's events: who did what to what, and when."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from sqlalchemy import Select, String, cast, or_, select
from starlette.responses import Response

from pfedbayespt.server.auth import visible_federation
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import InvalidRequest
from pfedbayespt.server.events.models import EventRecord
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.paths import FederationName
from pfedbayespt.server.ui.pages import PageRoute
from pfedbayespt.server.ui.reading import overview_of
from pfedbayespt.server.ui.rendering import page
from pfedbayespt.server.ui.session import SessionDep

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
PAGE_SIZE: Final = 50
Text = Annotated[str, Query(max_length=100)]
Day = Annotated[str, Query(max_length=10)]


@dataclass(frozen=True)
class Line:
    """An event as the page shows it."""

    event_id: int
    occurred_at: datetime
    actor: str
    action: str
    subject: str
    details: dict[str, Any]


@dataclass(frozen=True)
class Search:
    """What is looked for; an empty field asks for nothing."""

    text: str
    action: str
    actor: str
    since: str
    until: str
    before: int | None

    def narrowed(self, query: Select[Any]) -> Select[Any]:
        """Return `query` with this search's conditions.

        Raises:
            InvalidRequest: a day is none.
        """
        if self.text:
            fields = (EventRecord.subject, EventRecord.actor, cast(EventRecord.details, String))
            query = query.where(or_(*(field.icontains(self.text, autoescape=True) for field in fields)))
        if self.action:
            query = query.where(EventRecord.action == self.action)
        if self.actor:
            query = query.where(EventRecord.actor == self.actor)
        if self.since:
            query = query.where(EventRecord.occurred_at >= _start_of(self.since))
        if self.until:
            query = query.where(EventRecord.occurred_at < _start_of(self.until) + timedelta(days=1))
        return query if self.before is None else query.where(EventRecord.id < self.before)


@router.get("/federations/{name}/events")
def search_events(
    name: FederationName,
    request: Request,
    context: ContextDep,
    session: SessionDep,
    text: Text = "",
    action: Text = "",
    actor: Text = "",
    since: Day = "",
    until: Day = "",
    before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
) -> Response:
    """Show the events that match, newest first."""
    search = Search(text.strip(), action, actor, since, until, before)
    with context.database.read() as tx:
        seen = overview_of(tx, session, name)
        federation = visible_federation(tx, session.caller, name)
        found = _found(tx, federation, search)
        actions, actors = (
            _values(tx, federation, column) for column in (EventRecord.action, EventRecord.actor)
        )
    events = [_line(row) for row in found[:PAGE_SIZE]]
    return page(
        request,
        "events.html",
        seen=seen,
        search=search,
        events=events,
        older=events[-1].event_id if len(found) > PAGE_SIZE else None,
        actions=actions,
        actors=actors,
        names={site.site_id: site.site_name for site in seen.sites},
        current="events",
    )


def _found(tx: Transaction, federation: FederationRecord, search: Search) -> list[EventRecord]:
    query = search.narrowed(select(EventRecord).where(EventRecord.federation_id == federation.id))
    return list(tx.session.scalars(query.order_by(EventRecord.id.desc()).limit(PAGE_SIZE + 1)))


def _values(tx: Transaction, federation: FederationRecord, column: Any) -> list[str]:
    query = select(column).where(EventRecord.federation_id == federation.id).distinct().order_by(column)
    return list(tx.session.scalars(query.limit(200)))


def _line(row: EventRecord) -> Line:
    return Line(row.id, row.occurred_at, row.actor, row.action, row.subject, row.details)


def _start_of(day: str) -> datetime:
    try:
        return datetime.combine(date.fromisoformat(day), time(), UTC)
    except ValueError as error:
        raise InvalidRequest(f"{day!r} is no day; write it as 2026-11-23") from error
