"""HTTP operations on keys and access tokens."""

from typing import Annotated

from fastapi import APIRouter, Form

from pfedbayespt.protocol import (
    IDENTITY_PATH,
    AccessToken,
    CoordinatorIdentity,
    Page,
    ProblemType,
    SiteKey,
    SiteKeyAdd,
    SiteKeyRetire,
    TokenRequest,
)
from pfedbayespt.server.auth import EVERYBODY, Site
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.federations import repository as federations
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.paths import KeyIdInPath
from pfedbayespt.server.sites import keys, repository

router = APIRouter(tags=["keys"])


@router.get(
    IDENTITY_PATH,
    dependencies=[EVERYBODY],
    **documented("Read the coordinator's key", guarded=False),
)
def read_identity(context: ContextDep) -> CoordinatorIdentity:
    """Read the public key that receipts, terms and manifests are signed with. Sites pin it when they enrol."""
    return keys.identity_of(context.signer)


@router.post(
    "/v1/token",
    dependencies=[EVERYBODY],
    **documented(
        "Get an access token",
        ProblemType.AUTHENTICATION_REQUIRED,
        ProblemType.PERMISSION_DENIED,
        guarded=False,
    ),
)
def get_access_token(body: Annotated[TokenRequest, Form()], context: ContextDep) -> AccessToken:
    """Exchange an assertion that a site signed (RFC 7523, `private_key_jwt`) for a token that is good for minutes.

    The assertion's `aud` is the id of the coordinator's key, it lasts at most 60 seconds, and it is taken once.
    """
    with context.database.write("token") as tx:
        return keys.exchange(tx, body.client_assertion, context.signer, context.settings.access_token_seconds)


@router.get("/v1/sites/me/keys", **documented("List keys"))
def list_keys(context: ContextDep, caller: Site) -> Page[SiteKey]:
    """List the calling site's live keys, oldest first: one, or two while they are being changed."""
    with context.database.read() as tx:
        return Page(
            items=tuple(map(keys.describe, repository.live_keys(tx, caller.site_id))), next_cursor=None
        )


@router.post(
    "/v1/sites/me/keys",
    **documented(
        "Add a key",
        ProblemType.SIGNATURE_REJECTED,
        ProblemType.ALREADY_EXISTS,
        ProblemType.TRANSITION_NOT_ALLOWED,
    ),
)
def add_key(body: SiteKeyAdd, context: ContextDep, caller: Site) -> SiteKey:
    """Add a second key, signed with itself and with the first. Safe to repeat."""
    with context.database.write(caller.actor) as tx:
        federations.lock(tx, caller.federation_id)
        return keys.describe(keys.add(tx, caller, body))


@router.post(
    "/v1/sites/me/keys/{key_id}/retire",
    **documented(
        "Retire a key",
        ProblemType.NOT_FOUND,
        ProblemType.SIGNATURE_REJECTED,
    ),
)
def retire_key(key_id: KeyIdInPath, body: SiteKeyRetire, context: ContextDep, caller: Site) -> SiteKey:
    """Make a key and its access tokens worth nothing, signed with the other one. Safe to repeat."""
    with context.database.write(caller.actor) as tx:
        federations.lock(tx, caller.federation_id)
        return keys.describe(keys.retire(tx, caller, key_id, body))
