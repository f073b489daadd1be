"""What a request or the worker needs of the process: settings, database, blobs, and a way to wake the worker."""

import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

from fastapi import Depends, Request

from pfedbayespt.protocol import SigningKey
from pfedbayespt.server import keys
from pfedbayespt.server.blobs import BlobStore
from pfedbayespt.server.counters import Counters
from pfedbayespt.server.database import Database
from pfedbayespt.server.openid import OpenIdProvider
from pfedbayespt.server.rate_limits import RateLimits
from pfedbayespt.server.settings import Settings
from pfedbayespt.server.tracing import UNTRACED, Tracing


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
    counters: Counters = field(default_factory=Counters)
    is_stopping: threading.Event = field(default_factory=threading.Event)  # set: send nothing more here
    tracing: Tracing = UNTRACED

    @cached_property
    def rates(self) -> RateLimits:
        """What the holders of API keys have asked of this process lately."""
        return RateLimits(self.settings.api_key_requests_per_minute)

    @cached_property
    def people(self) -> OpenIdProvider | None:
        """Who tells of people, where one is configured."""
        settings = self.settings
        if settings.oidc_issuer is None or settings.oidc_audience is None:
            return None
        return OpenIdProvider(
            settings.oidc_issuer,
            settings.oidc_audience,
            settings.oidc_clock_skew_seconds,
        )

    @cached_property
    def signer(self) -> SigningKey:
        """The coordinator's key; start-up asks for it first, and makes it if there is none."""
        return keys.load_or_make(self.settings.effective_signing_key_file)


async def _context_of(request: Request) -> Context:  # not async, it would be called in a thread, for nothing
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(_context_of)]
