"""A real forward proxy, as a hospital has one: it cuts connections that idle, and loses an answer now and then."""

import http.client
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "proxy-authorization"}


@dataclass
class ForwardProxy:
    """What the proxy does, and what it has done.

    Attributes:
        idle_seconds: a connection without a request for this long is cut.
        lose_every: each so manieth answer is not passed on; the request has been carried out. 0: none.
    """

    idle_seconds: float = 30.0
    lose_every: int = 0
    url: str = ""
    num_requests: int = 0
    num_lost: int = 0
    num_cut: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def loses_next(self) -> bool:
        with self.lock:
            self.num_requests += 1
            is_lost = bool(self.lose_every) and self.num_requests % self.lose_every == 0
            self.num_lost += is_lost
            return is_lost


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, proxy: ForwardProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        self.timeout = self.server.proxy.idle_seconds
        super().setup()

    def log_error(self, form: str, *args: object) -> None:
        self.server.proxy.num_cut += "timed out" in form

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass

    def forward(self) -> None:
        answer, content = self._carried_out()
        if self.server.proxy.loses_next():
            self.close_connection = True
            return
        self.send_response_only(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in {*_HOP_BY_HOP, "content-length"}:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = forward  # noqa: N815 - the library's names

    def _carried_out(self) -> tuple[http.client.HTTPResponse, bytes]:
        address = urlsplit(self.path)
        target = address.path + (f"?{address.query}" if address.query else "")
        headers = {key: value for key, value in self.headers.items() if key.lower() not in _HOP_BY_HOP}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        upstream = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
        try:
            upstream.request(self.command, target, body, headers)
            answer = upstream.getresponse()
            return answer, answer.read()
        finally:
            upstream.close()


@contextmanager
def proxying(**habits: Any) -> Iterator[ForwardProxy]:
    """Run a proxy on the loopback interface until the block ends."""
    proxy = ForwardProxy(**habits)
    with _Server(proxy) as server:
        proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
