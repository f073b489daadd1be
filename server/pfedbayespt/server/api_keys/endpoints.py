"""HTTP operations on API keys."""

from fastapi import APIRouter

from pfedbayespt.protocol import ApiKey, ApiKeyCreate, NewApiKey, Page, ProblemType
from pfedbayespt.server.api_keys import service
from pfedbayespt.server.auth import Reading, Steering, visible_federation
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.pages import PageDep
from pfedbayespt.server.paths import ApiKeyId, FederationName

router = APIRouter(prefix="/v1", tags=["keys"])


@router.post(
    "/federations/{name}/api-keys",
    **documented(
        "Make an API key",
        ProblemType.NOT_FOUND,
        status=201,
    ),
)
def create_api_key(
    name: FederationName, body: ApiKeyCreate, context: ContextDep, caller: Steering
) -> NewApiKey:
    """Make a key that gives a role in the federation, on behalf of an organisation. It is shown this once only.

    The role `org_admin` is for what belongs to that organisation: its sites, and tokens for more of them.
    """
    with context.database.write(caller.actor) as tx:
        return service.create(tx, caller, visible_federation(tx, caller, name, lock=True), body)


@router.get(
    "/federations/{name}/api-keys",
    **documented("List API keys", ProblemType.NOT_FOUND),
)
def list_api_keys(name: FederationName, context: ContextDep, caller: Reading, page: PageDep) -> Page[ApiKey]:
    """List the federation's keys, oldest first, revoked ones too; never their secrets."""
    with context.database.read() as tx:
        return service.list_page(tx, visible_federation(tx, caller, name), page)


@router.post(
    "/api-keys/{api_key_id}/revoke",
    **documented("Revoke an API key", ProblemType.NOT_FOUND),
)
def revoke_api_key(api_key_id: ApiKeyId, context: ContextDep, caller: Steering) -> ApiKey:
    """Make a key worth nothing from the next request on, for good. Safe to repeat."""
    with context.database.write(caller.actor) as tx:
        return service.revoke(tx, caller, api_key_id)
