"""HTTP operations on federations."""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Request, Response

from pfedbayespt.protocol import (
    Federation,
    FederationCreate,
    FederationStatus,
    ModelVersion,
    Page,
    ProblemType,
)
from pfedbayespt.server.auth import Admin, Belonging, Caller, Steering, visible_federation
from pfedbayespt.server.blobs import TemporaryBlob
from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.failpoints import failpoint
from pfedbayespt.server.federations import lifecycle, service
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.media_types import require_tensor_file
from pfedbayespt.server.model_versions import initial, manifests
from pfedbayespt.server.model_versions import service as versions
from pfedbayespt.server.openapi import documented, tensor_body
from pfedbayespt.server.pages import OfStatus, PageDep
from pfedbayespt.server.paths import FederationName
from pfedbayespt.server.uploads import announced_body, in_upload_thread, receive_body

router = APIRouter(prefix="/v1/federations", tags=["federations"])
_CHANGE = (ProblemType.NOT_FOUND, ProblemType.TRANSITION_NOT_ALLOWED)


@router.post(
    "",
    **documented(
        "Create a federation",
        ProblemType.ALREADY_EXISTS,
        status=201,
    ),
)
def create_federation(body: FederationCreate, context: ContextDep, caller: Admin) -> Federation:
    """Create a draft. Next: put its initial parameters, then activate it."""
    with context.database.write(caller.actor) as tx:
        return service.describe(tx, service.create(tx, body, context.signer))


@router.get("", **documented("List federations"))
def list_federations(
    context: ContextDep,
    _: Admin,
    page: PageDep,
    status: Annotated[FederationStatus | None, OfStatus] = None,
) -> Page[Federation]:
    """List all federations, oldest first."""
    with context.database.read() as tx:
        return service.list_page(tx, page, status)


@router.get("/{name}", **documented("Read a federation", ProblemType.NOT_FOUND))
def read_federation(name: FederationName, context: ContextDep, caller: Belonging) -> Federation:
    """Read a federation and its specification, as an admin or as somebody who belongs to it."""
    with context.database.read() as tx:
        return service.describe(tx, visible_federation(tx, caller, name))


@router.put(
    "/{name}/initial-parameters",
    **documented(
        "Put the initial parameters",
        *_CHANGE,
        ProblemType.ALREADY_EXISTS,
        ProblemType.PARAMETERS_REJECTED,
        ProblemType.DIGEST_MISMATCH,
        ProblemType.BODY_TOO_LARGE,
        ProblemType.BODY_TIMEOUT,
        ProblemType.UNSUPPORTED_MEDIA_TYPE,
        ProblemType.STORAGE_EXHAUSTED,
        status=201,
        repeatable=ModelVersion,
    ),
    openapi_extra=tensor_body("The shared parameters of version 0, with their manifest."),
)
async def put_initial_parameters(
    name: FederationName, request: Request, response: Response, context: ContextDep, caller: Steering
) -> ModelVersion:
    """Give a draft its version 0, which serves at once. Its tensors become the federation's schema.

    The headers `Content-Length` and `Content-Digest` are required. The same file again is answered with 200.
    """
    require_tensor_file(request.headers)
    announced = announced_body(request.headers, context.settings.max_update_bytes)
    await in_upload_thread(_expect, context, caller, name, announced.digest)  # refused before it is sent
    with context.blobs.create() as blob:
        await receive_body(request.stream(), blob, announced)
        version, is_new = await in_upload_thread(keep_initial, context, caller, name, blob)
    response.status_code = 201 if is_new else 200
    return version


def keep_initial(
    context: Context, caller: Caller, name: str, blob: TemporaryBlob
) -> tuple[ModelVersion, bool]:
    """Make a file that has arrived a draft's version 0, and say whether that is new.

    Raises:
        AlreadyExists: there is a version 0 with other bytes.
        NotFound: there is no such federation.
        ParametersRejected: the file is no parameters file of this federation.
        TransitionNotAllowed: the federation is no draft any more.
    """
    expected = _expect(context, caller, name, blob.digest)
    schema = initial.check(blob.file, expected)
    context.blobs.put(blob)
    return _add_initial(context, caller, name, initial.File(blob.digest, blob.size_bytes, schema))


@router.post("/{name}/activate", **documented("Activate a federation", *_CHANGE))
def activate_federation(name: FederationName, context: ContextDep, caller: Steering) -> Federation:
    """Open a draft that has its initial parameters: rounds may start."""
    return _change(context, caller, name, service.activate)


@router.post("/{name}/pause", **documented("Pause a federation", *_CHANGE))
def pause_federation(name: FederationName, context: ContextDep, caller: Steering) -> Federation:
    """Start no more rounds; a live one goes on."""
    return _change(context, caller, name, lifecycle.pause)


@router.post("/{name}/resume", **documented("Resume a federation", *_CHANGE))
def resume_federation(name: FederationName, context: ContextDep, caller: Steering) -> Federation:
    """Let rounds start again."""
    return _change(context, caller, name, lifecycle.resume)


@router.post("/{name}/archive", **documented("Archive a federation", *_CHANGE))
def archive_federation(name: FederationName, context: ContextDep, caller: Steering) -> Federation:
    """End a federation for good. A live round is abandoned; versions and events can still be read."""
    return _change(context, caller, name, service.archive)


def _change(
    context: Context, caller: Caller, name: str, change: Callable[[Transaction, FederationRecord], None]
) -> Federation:
    with context.database.write(caller.actor) as tx:
        federation = visible_federation(tx, caller, name, lock=True)
        change(tx, federation)
        message = service.describe(tx, federation)
        failpoint("federation.before_commit")
    failpoint("federation.after_commit")
    context.work.set()
    return message


def _expect(context: Context, caller: Caller, name: str, digest: str) -> initial.Expected:
    with context.database.read() as tx:
        federation = visible_federation(tx, caller, name)
        versions.check_initial(tx, federation, digest)
        return initial.Expected(federation.name, federation.specification_digest)


def _add_initial(
    context: Context, caller: Caller, name: str, file: initial.File
) -> tuple[ModelVersion, bool]:
    with context.database.write(caller.actor) as tx:
        federation = visible_federation(tx, caller, name, lock=True)
        there = versions.check_initial(tx, federation, file.digest)
        version = there or versions.add_initial(tx, federation, file)
        if there is None:
            manifests.sign(version, context.signer)
        return versions.describe(version, federation.name), there is None
