"""HTTP operations on events."""

from fastapi import APIRouter

from pfedbayespt.protocol import Event, Page, ProblemType
from pfedbayespt.server import examples
from pfedbayespt.server.auth import Reading, visible_federation
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.events import service
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.pages import PageDep
from pfedbayespt.server.paths import FederationName

router = APIRouter(prefix="/v1", tags=["events"])


@router.get(
    "/federations/{name}/events",
    **documented("List events", ProblemType.NOT_FOUND, example=examples.EVENTS),
)
def list_events(name: FederationName, context: ContextDep, caller: Reading, page: PageDep) -> Page[Event]:
    """List every state change of a federation and what belongs to it, oldest first."""
    with context.database.read() as tx:
        return service.list_page(tx, visible_federation(tx, caller, name), page)
