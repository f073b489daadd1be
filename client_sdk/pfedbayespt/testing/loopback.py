"""HTTP on the loopback interface, from the standard library's server, with the faults that were planned.

Faults come about outside of what answers: what was done stays done, whether or not its answer arrives.
"""

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from pfedbayespt.protocol import (
    PROBLEM_MEDIA_TYPE,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    Message,
    Problem,
    ProblemType,
)
from pfedbayespt.testing.faults import Fault, Faults
from pfedbayespt.testing.records import Refusal

Body = TypeVar("Body", bound=Message)


@dataclass(frozen=True)
class Request:
    """What a site sent; `places` are the parts of the path that name something.

    Header names are in lower case.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    places: tuple[str, ...] = ()

    def read(self, message: type[Body]) -> Body:
        """Return the body as a message, or refuse it."""
        try:
            return message.model_validate_json(self.body)
        except ValidationError as error:
            raise Refusal(ProblemType.INVALID_REQUEST, str(error)) from error


@dataclass(frozen=True)
class Answer:
    """What it is told."""

    status: int
    body: bytes
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_answer(message: Message, status: int = 200) -> Answer:
    """Return a message as an answer."""
    return Answer(status, message.model_dump_json().encode())


def problem_answer(refusal: Refusal) -> Answer:
    """Return a refusal as a problem document."""
    kind = refusal.problem
    document = Problem(
        type=kind.urn,
        title=kind.title,
        status=kind.status,
        detail=refusal.detail,
        instance="req_fake",
        **refusal.extensions,
    )
    return Answer(kind.status, document.model_dump_json().encode(), PROBLEM_MEDIA_TYPE)


def _busy(seconds: float) -> Answer:
    answer = problem_answer(Refusal(ProblemType.OVERLOADED, "busy, as planned"))
    return Answer(answer.status, answer.body, answer.media_type, {"Retry-After": f"{max(1, round(seconds))}"})


class LoopbackServer(ThreadingHTTPServer):
    """A server whose end is the end of its connections, idle ones too.

    Args:
        port: where it listens; 0: anywhere.
        answer: returns the answer to a request.
        faults: what is to go wrong.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int, answer: Callable[[Request], Answer], faults: Faults) -> None:
        self.answer = answer
        self.faults = faults
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget it."""
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """End every connection."""
        super().server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: LoopbackServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        """Answer, or have the planned fault happen."""
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if len(body) < size:  # the site went away
            self.close_connection = True
            return
        path = urlsplit(self.path).path
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.server.faults.take(f"{self.command} {path}")
        answer = self._answer(fault, Request(self.command, path, headers, body))
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer, is_torn=fault is Fault.TORN)

    do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - the standard library's names

    def log_message(self, *_: Any) -> None:
        """Say nothing: `FakeCoordinator.requests` has it."""

    def _answer(self, fault: Fault | None, request: Request) -> Answer | None:
        """Return the answer, None if the connection is to be cut."""
        if fault is Fault.CUT:
            return None
        if fault is Fault.BUSY:
            return _busy(self.server.faults.seconds)
        if fault is Fault.SLOW:
            time.sleep(self.server.faults.seconds)
        answer = self.server.answer(request)
        return None if fault is Fault.LOST else answer

    def _send(self, answer: Answer, *, is_torn: bool) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header(PROTOCOL_HEADER, PROTOCOL_VERSION)
        self.send_header("Content-Type", answer.media_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body[: len(answer.body) // 2] if is_torn else answer.body)
        self.close_connection = self.close_connection or is_torn
