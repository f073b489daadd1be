"""HTTP operations on updates."""

import time
from typing import Annotated

from fastapi import APIRouter, Request, Response

from pfedbayespt.protocol import Page, ProblemType, Receipt, Update, UpdateStatement, UpdateStatus
from pfedbayespt.server.auth import Reading, Site, SiteCaller
from pfedbayespt.server.blobs import TemporaryBlob
from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.errors import UpdateRejected
from pfedbayespt.server.failpoints import failpoint
from pfedbayespt.server.media_types import require_tensor_file
from pfedbayespt.server.openapi import documented, tensor_body
from pfedbayespt.server.pages import OfStatus, PageDep
from pfedbayespt.server.paths import RoundId, SiteId, UpdateId
from pfedbayespt.server.rounds import service as rounds
from pfedbayespt.server.updates import service, statements
from pfedbayespt.server.updates.ingest import ExpectedUpdate, ReceivedUpdate, claims_of, receive_update
from pfedbayespt.server.uploads import announced_body, in_upload_thread

router = APIRouter(prefix="/v1", tags=["updates"])


@router.put(
    "/rounds/{round_id}/updates/{site_id}",
    **documented(
        "Submit an update",
        ProblemType.NOT_FOUND,
        ProblemType.NOT_IN_COHORT,
        ProblemType.ROUND_CLOSED,
        ProblemType.NO_OPEN_ROUND,
        ProblemType.UPDATE_TOO_STALE,
        ProblemType.UPDATE_CONFLICT,
        ProblemType.UPDATE_REJECTED,
        ProblemType.SIGNATURE_REJECTED,
        ProblemType.DIGEST_MISMATCH,
        ProblemType.BODY_TOO_LARGE,
        ProblemType.BODY_TIMEOUT,
        ProblemType.UNSUPPORTED_MEDIA_TYPE,
        ProblemType.STORAGE_EXHAUSTED,
        status=201,
        repeatable=Receipt,
    ),
    openapi_extra=tensor_body("The deltas of the shared parameters, with the update's manifest."),
)
async def submit_update(
    round_id: RoundId,
    site_id: SiteId,
    request: Request,
    response: Response,
    context: ContextDep,
    caller: Site,
) -> Receipt:
    """Submit the calling site's update. The receipt means that it is durable and will not be lost.

    The headers `Content-Length`, `Content-Digest` and `Update-Statement`, which the site has signed about this very
    update, are required. Safe to repeat: the same file again is answered with 200 and the same receipt, even after
    the round has closed. A late update counts in a later round, if the federation's `late_policy` says so; the
    receipt says how stale it is. `no_open_round` asks to come again.
    """
    begun = time.perf_counter()
    require_tensor_file(request.headers)
    announced = announced_body(request.headers, context.settings.max_update_bytes)
    statement = statements.statement_in(request.headers)
    asked = (round_id, site_id, announced.digest)
    expected = await in_upload_thread(_expect, context, caller, asked, statement)
    failpoint("ingest.after_auth")
    with context.blobs.create() as blob:
        try:
            received = await receive_update(request.stream(), blob, announced, expected)
        except UpdateRejected as error:
            await in_upload_thread(_quarantine, context, caller, round_id, blob, error)
            raise
        acknowledgement = await in_upload_thread(_accept, context, caller, received, statement)
    context.work.set()
    context.counters.acknowledgement.observe(time.perf_counter() - begun)
    response.status_code = 201 if acknowledgement.is_new else 200
    return acknowledgement.receipt


@router.get(
    "/rounds/{round_id}/updates",
    **documented("List a round's updates", ProblemType.NOT_FOUND),
)
def list_updates(
    round_id: RoundId,
    context: ContextDep,
    caller: Reading,
    page: PageDep,
    status: Annotated[UpdateStatus | None, OfStatus] = None,
) -> Page[Update]:
    """List what was submitted in a round, oldest first, quarantined updates too."""
    with context.database.read() as tx:
        return service.list_page(tx, rounds.find(tx, caller, round_id), page, status)


@router.get("/updates/{update_id}", **documented("Read an update", ProblemType.NOT_FOUND))
def read_update(update_id: UpdateId, context: ContextDep, caller: Reading) -> Update:
    """Read an update's manifest, verdict and share."""
    with context.database.read() as tx:
        return service.describe(tx, service.find(tx, caller, update_id))


def _expect(
    context: Context, caller: SiteCaller, asked: tuple[str, str, str], statement: UpdateStatement
) -> ExpectedUpdate:
    round_id, site_id, digest = asked
    with context.database.read() as tx:
        expected = service.expect(tx, caller, round_id, site_id, digest)
        statements.check(tx, caller, statement, round_id, digest)
        return expected


def _accept(
    context: Context, caller: SiteCaller, received: ReceivedUpdate, statement: UpdateStatement
) -> service.Acknowledgement:
    statements.check_manifest(statement, received.manifest)
    with context.counters.storage.time():
        context.blobs.put(received.blob)
    failpoint("ingest.after_put")
    with context.database.write(caller.actor) as tx:
        acknowledgement = service.accept(tx, caller, received, statement, context.signer)
        failpoint("ingest.before_commit")
    failpoint("ingest.after_commit")
    return acknowledgement


def _quarantine(
    context: Context, caller: SiteCaller, round_id: str, blob: TemporaryBlob, error: UpdateRejected
) -> None:
    manifest, schema = claims_of(blob.file)
    refused = service.RefusedUpdate(blob.digest, blob.size_bytes, manifest, schema, error)
    with context.database.write(caller.actor) as tx:
        service.quarantine(tx, caller, round_id, refused)
