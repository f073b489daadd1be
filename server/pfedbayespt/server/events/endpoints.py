"""HTTP operations on events."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime

from pfedbayespt.protocol import Event, Page, ProblemType
from pfedbayespt.server.auth import Reading, visible_federation
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.events import service
from pfedbayespt.server.events.service import EventFilter
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.pages import PageDep
from pfedbayespt.server.paths import FederationName

router = APIRouter(prefix="/v1", tags=["events"])
_Name = Annotated[str | None, Query(max_length=64)]


async def _event_filter(
    action: Annotated[_Name, Query(description="Those of this kind alone, such as `round.closed`.")] = None,
    subject: Annotated[_Name, Query(description="Those about the object of this id alone.")] = None,
    actor: Annotated[_Name, Query(description="Those that this caller, or `worker`, brought about.")] = None,
    since: Annotated[
        AwareDatetime | None, Query(description="Those from this time on, with its offset from UTC.")
    ] = None,
) -> EventFilter:
    return EventFilter(action, subject, actor, since)


@router.get(
    "/federations/{name}/events",
    **documented("List events", ProblemType.NOT_FOUND),
)
def list_events(
    name: FederationName,
    context: ContextDep,
    caller: Reading,
    page: PageDep,
    wanted: Annotated[EventFilter, Depends(_event_filter)],
) -> Page[Event]:
    """List every state change of a federation and what belongs to it, oldest first."""
    with context.database.read() as tx:
        return service.list_page(tx, visible_federation(tx, caller, name), page, wanted)
