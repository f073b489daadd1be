"""What a request or the worker needs of the process: settings, database, blobs, and a way to wake the worker."""

import threading
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from pfedbayespt.server.blobs import BlobStore
from pfedbayespt.server.database import Database
from pfedbayespt.server.settings import Settings


@dataclass(frozen=True)
class Context:
    """The parts of one server process; `create_app` makes it, `app.state.context` holds it."""

    settings: Settings
    database: Database
    blobs: BlobStore
    # Who this process is among several workers on one database; an embedded one's workers are all the same.
    worker_id: str = "embedded"
    work: threading.Event = field(default_factory=threading.Event)  # set: something may be due now
    is_warm: threading.Event = field(default_factory=threading.Event)  # set: what serves here is loaded


def _context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(_context_of)]
