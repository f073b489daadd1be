"""HTTP operations on model versions."""

import base64
from collections.abc import Iterator
from typing import Annotated, BinaryIO

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse

from pfedbayespt.protocol import (
    Evaluation,
    ModelVersion,
    ModelVersionStatus,
    Page,
    ProblemType,
    SiteEvaluation,
)
from pfedbayespt.server.auth import Member, Site, Steering, visible_federation
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.errors import PermissionDenied
from pfedbayespt.server.failpoints import failpoint
from pfedbayespt.server.media_types import TENSOR_MEDIA_TYPE
from pfedbayespt.server.model_versions import promotion, service
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.pages import OfStatus, PageDep
from pfedbayespt.server.paths import FederationName, SiteId, VersionNumber

router = APIRouter(prefix="/v1/federations/{name}/model-versions", tags=["model versions"])
_CHUNK_BYTES = 2**18


@router.get("", **documented("List versions", ProblemType.NOT_FOUND))
def list_model_versions(
    name: FederationName,
    context: ContextDep,
    caller: Member,
    page: PageDep,
    status: Annotated[ModelVersionStatus | None, OfStatus] = None,
) -> Page[ModelVersion]:
    """List the federation's model versions, newest first. A site sees its own organisation's evaluations alone."""
    with context.database.read() as tx:
        federation = visible_federation(tx, caller, name)
        return service.list_page(tx, federation, page, caller.tenant_in(federation.id), status)


@router.get("/{number}", **documented("Read a version", ProblemType.NOT_FOUND))
def read_model_version(
    name: FederationName, number: VersionNumber, context: ContextDep, caller: Member
) -> ModelVersion:
    """Read a model version: its digest, its lineage and what sites report of it, a site its own organisation's."""
    with context.database.read() as tx:
        federation = visible_federation(tx, caller, name)
        version = service.find(tx, federation, number, lineage=True)
        return service.describe(version, federation.name, caller.tenant_in(federation.id))


@router.get(
    "/{number}/parameters",
    response_class=StreamingResponse,
    **documented("Download a version", ProblemType.NOT_FOUND),
)
def download_parameters(
    name: FederationName,
    number: VersionNumber,
    context: ContextDep,
    caller: Member,
    if_none_match: Annotated[
        str | None, Header(description="The ETag of the file that the caller has already.")
    ] = None,
) -> Response:
    """Download the version's file of shared parameters; its digest is in `ETag` and `Content-Digest`."""
    with context.database.read() as tx:
        version = service.find(tx, visible_federation(tx, caller, name), number)
    headers = {"ETag": f'"{version.digest}"', "Cache-Control": "private, immutable, max-age=31536000"}
    if if_none_match is not None and version.digest in if_none_match:
        return Response(status_code=304, headers=headers)
    sha256 = base64.b64encode(bytes.fromhex(version.digest.removeprefix("sha256:"))).decode()
    headers |= {"Content-Digest": f"sha-256=:{sha256}:", "Content-Length": str(version.size_bytes)}
    file = context.blobs.open(version.digest)
    failpoint("serve.before_file")
    return StreamingResponse(chunks(file), media_type=TENSOR_MEDIA_TYPE, headers=headers)


@router.put(
    "/{number}/evaluations/{site_id}",
    **documented(
        "Report an evaluation",
        ProblemType.NOT_FOUND,
        ProblemType.EVALUATION_CONFLICT,
    ),
)
def put_evaluation(
    name: FederationName,
    number: VersionNumber,
    site_id: SiteId,
    body: Evaluation,
    context: ContextDep,
    caller: Site,
) -> SiteEvaluation:
    """Report how the version does on the calling site's own held-out images: numbers only. Safe to repeat."""
    if site_id != caller.site_id:
        raise PermissionDenied(f"a site reports its own evaluations only; yours is {caller.site_id}")
    with context.database.write(caller.actor) as tx:
        federation = visible_federation(tx, caller, name, lock=True)
        evaluation = service.evaluate(tx, caller, service.find(tx, federation, number), body)
        failpoint("evaluation.before_commit")
    failpoint("evaluation.after_commit")
    context.work.set()
    return evaluation


@router.post(
    "/{number}/promote",
    **documented(
        "Promote a version",
        ProblemType.NOT_FOUND,
        ProblemType.TRANSITION_NOT_ALLOWED,
    ),
)
def promote_model_version(
    name: FederationName, number: VersionNumber, context: ContextDep, caller: Steering
) -> ModelVersion:
    """Let a held version serve after all, or roll back to a retired one. A live round is abandoned."""
    with context.database.write(caller.actor) as tx:
        federation = visible_federation(tx, caller, name, lock=True)
        version = service.find(tx, federation, number, lineage=True)
        promotion.promote_by_hand(tx, federation, version)
        message = service.describe(version, federation.name)
        failpoint("rollback.before_commit")
    failpoint("rollback.after_commit")
    context.work.set()
    return message


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's content and close it."""
    with file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
            failpoint("serve.mid_file")
