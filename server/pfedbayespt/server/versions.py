"""The wire contract's version on every request and answer (`pfedbayespt.protocol.versions`)."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pfedbayespt.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION, protocol_mismatch
from pfedbayespt.server import problems
from pfedbayespt.server.errors import ProtocolMismatch


class ProtocolVersions:
    """The middleware: refuses an SDK that speaks another version, and says its own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[PROTOCOL_HEADER] = PROTOCOL_VERSION
            await send(message)

        theirs = Headers(scope=scope).get(PROTOCOL_HEADER, PROTOCOL_VERSION)
        told = protocol_mismatch(PROTOCOL_VERSION, theirs, "the coordinator", "the SDK")
        if told is None:
            await self._app(scope, receive, send_with_version)
        else:
            refusal = problems.render_refusal(scope, ProtocolMismatch(told))
            await refusal(scope, receive, send_with_version)
