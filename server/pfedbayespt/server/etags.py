"""ETags for JSON answers to GET: who has the present answer already is told so, and sent nothing.

The tag is the digest of the bytes, so it changes exactly when the answer does (RFC 9110, section 13).
"""

import hashlib
import re
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATHS: Final = "/v1/"
_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')


class ETags:
    """ASGI middleware around the API's operations."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with a tag or with 304 where that is right."""
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].startswith(_PATHS):
            await self._app(scope, receive, send)
            return
        await self._app(scope, receive, _Tagged(Headers(scope=scope), send))


class _Tagged:
    """Holds a JSON answer back until its whole body is there; passes everything else on at once."""

    def __init__(self, request: Headers, send: Send) -> None:
        self._known = set(_TAG.findall(request.get("if-none-match", "")))
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_taggable(message):
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        tag = hashlib.sha256(self._body).hexdigest()[:32]
        headers = MutableHeaders(scope=start)
        headers["ETag"] = f'"{tag}"'
        headers["Cache-Control"] = "private, no-cache"
        is_known = tag in self._known
        if is_known:
            start["status"] = 304
            del headers["content-length"], headers["content-type"]
        await self._send(start)
        await self._send({"type": "http.response.body", "body": b"" if is_known else bytes(self._body)})


def _is_taggable(start: Message) -> bool:
    headers = MutableHeaders(scope=start)
    media_type = headers.get("content-type", "").partition(";")[0]
    return start["status"] == 200 and media_type == "application/json" and "etag" not in headers
