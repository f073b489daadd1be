"""Telling an open page that something has changed: server-sent events, one per change of a federation.

A stream sends the id of the federation's latest event, and again whenever there is a newer one. It ends by itself
after `STREAM_SECONDS`, and the browser opens the next one: so nobody's session or a stopping server is held up.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from fastapi import APIRouter, Request
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.errors import Overloaded
from pfedbayespt.server.events.models import EventRecord
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.paths import FederationName
from pfedbayespt.server.ui.pages import PageRoute
from pfedbayespt.server.ui.rendering import HEADERS
from pfedbayespt.server.ui.session import SessionDep

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
STREAM_SECONDS: Final = 12.0
MAX_STREAMS: Final = 64
_LOOK_SECONDS: Final = 0.5
_REOPEN_MILLISECONDS: Final = 300


@router.get("/federations/{name}/stream")
async def stream_changes(
    name: FederationName, request: Request, context: ContextDep, _: SessionDep
) -> StreamingResponse:
    """Tell of each change of the federation while the page is open."""
    streams: list[int] = request.app.state.ui_streams
    if streams[0] >= MAX_STREAMS:
        raise Overloaded(f"{MAX_STREAMS} pages follow this coordinator already; reload later")
    return StreamingResponse(
        _changes(context, name, streams), media_type="text/event-stream", headers=HEADERS
    )


async def _changes(context: Context, name: str, streams: list[int]) -> AsyncIterator[str]:
    streams[0] += 1
    try:
        yield f"retry: {_REOPEN_MILLISECONDS}\n\n"
        seen, loop = await run_in_threadpool(_latest, context, name), asyncio.get_running_loop()
        end = loop.time() + STREAM_SECONDS
        while loop.time() < end:
            await asyncio.sleep(_LOOK_SECONDS)
            latest = await run_in_threadpool(_latest, context, name)
            if latest != seen:
                seen = latest
                yield f"event: change\nid: {latest}\ndata: {latest}\n\n"
        yield "event: change\ndata: reopened\n\n"  # what changed between two streams is caught up with
    finally:
        streams[0] -= 1


def _latest(context: Context, name: str) -> int:
    query = (
        select(func.max(EventRecord.id))
        .join(FederationRecord, FederationRecord.id == EventRecord.federation_id)
        .where(FederationRecord.name == name)
    )
    with context.database.read() as tx:
        return tx.session.scalars(query).one() or 0
