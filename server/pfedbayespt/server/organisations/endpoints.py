"""HTTP operations on organisations."""

from fastapi import APIRouter

from pfedbayespt.protocol import Organisation, OrganisationCreate, Page, ProblemType
from pfedbayespt.server.auth import Admin, Belonging, Overseeing, visible_federation
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.organisations import service
from pfedbayespt.server.pages import PageDep
from pfedbayespt.server.paths import FederationName, OrganisationName

router = APIRouter(prefix="/v1", tags=["organisations"])


@router.post(
    "/organisations",
    **documented(
        "Make an organisation known",
        ProblemType.ALREADY_EXISTS,
        status=201,
    ),
)
def create_organisation(body: OrganisationCreate, context: ContextDep, caller: Admin) -> Organisation:
    """Make an organisation known that takes part nowhere yet; the first enrolment token for one does so too."""
    with context.database.write(caller.actor) as tx:
        return service.describe(service.create(tx, body), caller)


@router.get("/organisations", **documented("List organisations"))
def list_organisations(context: ContextDep, caller: Admin, page: PageDep) -> Page[Organisation]:
    """List all organisations, by name."""
    with context.database.read() as tx:
        return service.list_page(tx, caller, page)


@router.get(
    "/organisations/{organisation}",
    **documented("Read an organisation", ProblemType.NOT_FOUND),
)
def read_organisation(organisation: OrganisationName, context: ContextDep, caller: Belonging) -> Organisation:
    """Read an organisation that the caller belongs to, or one of a federation that the caller leads or audits."""
    with context.database.read() as tx:
        return service.find(tx, caller, organisation)


@router.get(
    "/federations/{name}/organisations",
    **documented("List a federation's organisations", ProblemType.NOT_FOUND),
)
def list_members(
    name: FederationName, context: ContextDep, caller: Overseeing, page: PageDep
) -> Page[Organisation]:
    """List who takes part in a federation, by name; an organisation's own admin sees it alone."""
    with context.database.read() as tx:
        return service.list_page(tx, caller, page, visible_federation(tx, caller, name))
