"""Liveness and readiness, for whoever runs the coordinator."""

from typing import Literal

from fastapi import APIRouter

from pfedbayespt.protocol import Message, ProblemType
from pfedbayespt.server.auth import EVERYBODY
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.errors import Overloaded
from pfedbayespt.server.openapi import documented

router = APIRouter(tags=["health"], dependencies=[EVERYBODY])


class Health(Message):
    """The process's state."""

    status: Literal["ok"] = "ok"


@router.get("/livez", **documented("Is the process alive", guarded=False))
def read_liveness(context: ContextDep) -> Health:
    """Answer, unless only a restart can help: an fsync has failed, and what the disk holds is unknown."""
    context.blobs.check_sound()
    return Health()


@router.get(
    "/readyz",
    **documented("Can it serve", ProblemType.OVERLOADED, guarded=False),
)
def read_readiness(context: ContextDep) -> Health:
    """Answer once the database and the blob store do and what serves is loaded; a swap changes nothing.

    A process that was told to stop is not ready from then on, while it still answers what reaches it.
    """
    if context.is_stopping.is_set():
        raise Overloaded("this process is about to stop")
    context.database.ping()
    context.blobs.ping()
    if not context.is_warm.is_set():
        raise Overloaded("the versions that serve are still being loaded")
    return Health()
