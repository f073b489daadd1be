"""A full house says no at the door: before the caller is known, and before anything is looked up for the request.

Under overload most requests are refused, and what a refusal costs is taken from those that are computed.
"""

import re
from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from pfedbayespt.server import problems
from pfedbayespt.server.errors import Overloaded

_PATHS: Final = re.compile(r"/v1/federations/[^/]+/predictions(/batch)?|/v2/models/.+/infer")


class Door:
    """ASGI middleware around the operations that predict."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if there is a place for it."""
        if scope["type"] == "http" and scope["method"] == "POST" and _PATHS.fullmatch(scope["path"]):
            try:
                scope["app"].state.predictions.admission.check_space()
            except Overloaded as refusal:
                await problems.answer(Request(scope), refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)
