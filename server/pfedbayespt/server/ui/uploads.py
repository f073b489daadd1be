"""Which sites' updates are arriving at this process now: watched from outside, so that nothing waits for it."""

import re
from collections import Counter
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

_UPDATE: Final = re.compile(r"/v1/rounds/([^/]+)/updates/([^/]+)")


class UploadsUnderWay:
    """ASGI middleware that counts the updates that are being sent."""

    def __init__(self, app: ASGIApp, under_way: Counter[tuple[str, str]]) -> None:
        self._app = app
        self._under_way = under_way

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, noted while it lasts."""
        match = _UPDATE.fullmatch(scope["path"]) if scope.get("method") == "PUT" else None
        if match is None:
            await self._app(scope, receive, send)
            return
        part = (match[1], match[2])
        self._under_way[part] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way[part] -= 1
            if not self._under_way[part]:
                del self._under_way[part]
