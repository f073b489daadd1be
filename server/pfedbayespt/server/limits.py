"""How much a request may send, and how long it may take over it: ASGI middleware around all that reads a body.

Rules:
1. A body that is announced too large is refused before the application sees the request; one that grows too large
   is refused with the chunk that is too much. Nothing after it is read (413).
2. A body must be complete `deadline_seconds` after the application began to read it (408). Time that the
   application spends before that, or after the body is complete, does not count.
3. Whatever the application answers to a body it could not finish is replaced by the refusal, and the connection is
   closed, as the rest of the body would otherwise still have to be read. An answer that was begun is not replaced.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pfedbayespt.server.errors import BodyTimeout, BodyTooLarge, CoordinatorError

Render = Callable[[Scope, CoordinatorError], Response]


@dataclass(frozen=True)
class BodyLimit:
    """The most that a body may be, and the longest it may take."""

    max_bytes: int
    deadline_seconds: float


@dataclass(frozen=True)
class BodyRule:
    """A limit for the requests whose whole path matches the pattern."""

    path: re.Pattern[str]
    limit: BodyLimit


class BodyLimits:
    """The middleware: the first rule that matches the path decides, else `default`."""

    def __init__(
        self, app: ASGIApp, *, render: Render, default: BodyLimit, rules: Sequence[BodyRule] = ()
    ) -> None:
        self._app = app
        self._render = render
        self._default = default
        self._rules = tuple(rules)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, its body guarded."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _GuardedBody(self._limit_of(scope["path"]), receive, send)
        refusal = body.refused_as_announced(Headers(scope=scope)) or await body.offered_to(self._app, scope)
        if refusal is not None:
            response = self._render(scope, refusal)
            response.headers["Connection"] = "close"
            await response(scope, receive, send)

    def _limit_of(self, path: str) -> BodyLimit:
        matches = (rule.limit for rule in self._rules if rule.path.fullmatch(path))
        return next(matches, self._default)


class _GuardedBody:
    """One request's body on its way into the application."""

    def __init__(self, limit: BodyLimit, receive: Receive, send: Send) -> None:
        self._limit = limit
        self._receive = receive
        self._send = send
        self._num_bytes = 0
        self._is_complete = False
        self._is_answered = False
        self._deadline: float | None = None
        self._refusal: CoordinatorError | None = None

    def refused_as_announced(self, headers: Headers) -> CoordinatorError | None:
        """Return the refusal of a body whose announced length is too much."""
        length = headers.get("content-length", "")
        if length.isascii() and length.isdigit() and int(length[:20]) > self._limit.max_bytes:
            return self._too_large()
        return None

    async def offered_to(self, app: ASGIApp, scope: Scope) -> CoordinatorError | None:
        """Run the application; return the refusal if there is one that can still be answered."""
        try:
            await app(scope, self._guarded_receive, self._guarded_send)
        except Exception:
            if self._refusal is None or self._is_answered:
                raise
        return None if self._is_answered else self._refusal

    async def _guarded_receive(self) -> Message:
        if self._refusal is not None:
            raise self._refusal
        if self._is_complete:
            return await self._receive()
        message = await self._receive_in_time()
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._limit.max_bytes:
            self._refuse(self._too_large())
        self._is_complete = not message.get("more_body", False)  # so is a body whose client went away
        return message

    async def _receive_in_time(self) -> Message:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._limit.deadline_seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            seconds = self._limit.deadline_seconds
            self._refuse(BodyTimeout(f"the body did not arrive within {seconds:g} seconds; send it faster"))

    async def _guarded_send(self, message: Message) -> None:
        if self._refusal is not None and not self._is_answered:
            return
        self._is_answered = True
        await self._send(message)

    def _refuse(self, refusal: CoordinatorError) -> NoReturn:
        self._refusal = refusal
        raise refusal

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is too large; allowed: {self._limit.max_bytes} bytes")
