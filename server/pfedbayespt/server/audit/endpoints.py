"""HTTP operations for auditors, and for sites that check what became of their updates."""

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from pfedbayespt.protocol import Lineage, ProblemType, Receipt
from pfedbayespt.server.audit import service
from pfedbayespt.server.auth import Member, Reading, visible_federation
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.errors import NotFound
from pfedbayespt.server.media_types import TENSOR_MEDIA_TYPE
from pfedbayespt.server.model_versions.endpoints import chunks
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.paths import FederationName, UpdateId, VersionNumber

router = APIRouter(prefix="/v1", tags=["events"])


@router.get(
    "/federations/{name}/model-versions/{number}/lineage",
    **documented("Trace a version", ProblemType.NOT_FOUND),
)
def read_lineage(name: FederationName, number: VersionNumber, context: ContextDep, caller: Member) -> Lineage:
    """Follow a version, which every prediction names, back to the updates and sites behind it.

    A site sees every digest and weight, and the names of its own organisation's sites.
    """
    with context.database.read() as tx:
        return service.lineage(tx, caller, visible_federation(tx, caller, name), number)


@router.get(
    "/updates/{update_id}/receipt",
    **documented("Read a receipt", ProblemType.NOT_FOUND),
)
def read_receipt(update_id: UpdateId, context: ContextDep, caller: Member) -> Receipt:
    """Read the signed receipt of an accepted update, the one that its site was given. A site reads its own only."""
    with context.database.read() as tx:
        return service.receipt(tx, caller, update_id, context.signer)


@router.get(
    "/updates/{update_id}/parameters",
    response_class=StreamingResponse,
    **documented("Download an update", ProblemType.NOT_FOUND),
)
def download_update(update_id: UpdateId, context: ContextDep, caller: Reading) -> StreamingResponse:
    """Download the file of an accepted update, so that versions can be computed again from it."""
    with context.database.read() as tx:
        update = service.find_accepted(tx, caller, update_id)
    if update.payload_retired_at is not None:
        raise NotFound(f"the file of update {update_id} was retired on {update.payload_retired_at:%Y-%m-%d}")
    headers = {"ETag": f'"{update.digest}"', "Content-Length": str(update.size_bytes)}
    file = context.blobs.open(update.digest)
    return StreamingResponse(chunks(file), media_type=TENSOR_MEDIA_TYPE, headers=headers)
