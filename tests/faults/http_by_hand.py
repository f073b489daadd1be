"""Requests as no well-behaved client sends them: cut off, too long, too slow."""

import socket
from dataclasses import dataclass, replace
from typing import Any

from tests.server.harness import SiteCaller


class _Recorder:
    """Stands in for an HTTP client and keeps what it was asked to send."""

    def request(self, method: str, path: str, **options: Any) -> Any:
        self.method, self.path, self.options = method, path, options
        return self


@dataclass(frozen=True)
class Submission:
    """An update's request, before anybody tampers with it."""

    path: str
    headers: dict[str, str]
    content: bytes

    def head(self, **changes: str) -> bytes:
        """Return the request line and headers, some of them changed."""
        headers = {"Host": "coordinator", "Content-Length": str(len(self.content)), **self.headers, **changes}
        lines = [f"PUT {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


def submission(site: SiteCaller, round_id: str, content: bytes) -> Submission:
    """Return the request by which the site would submit `content`."""
    recorder = _Recorder()
    replace(site, http=recorder).submit_file(round_id, content)
    headers = {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in recorder.options["headers"].items()
    }
    return Submission(recorder.path, headers, content)


def connect(port: int) -> socket.socket:
    """Return a connection to a coordinator on this machine."""
    return socket.create_connection(("127.0.0.1", port), timeout=30.0)


def status_of(connection: socket.socket) -> int:
    """Return the status of the answer that arrives."""
    start = b""
    while b"\r\n" not in start:
        chunk = connection.recv(4096)
        assert chunk, "the connection was closed without an answer"
        start += chunk
    return int(start.split()[1])
