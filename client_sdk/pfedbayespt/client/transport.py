"""How bytes travel to the coordinator. This module alone knows which HTTP library does the work.

Time-outs (`Timeouts`), in seconds:

    connect_seconds      5   to open a connection, TLS included (resolving the name is up to the machine)
    write_seconds       60   without the other side taking a byte of the request
    read_seconds        60   without a byte of the answer
    total_seconds       60   after which a call is not tried again; one that makes progress is never cut off

Proxies and certificates: the arguments `proxy` and `ca_file` win; without them the usual environment variables
count (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR). Redirects are not followed,
so a credential never goes to a host that was not named, and answers are counted while they arrive.
"""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from pfedbayespt.client.errors import TransportError

MAX_ANSWER_BYTES = 2**30
"""No parameters file comes near it."""


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for what; see the table above."""

    connect_seconds: float = 5.0
    write_seconds: float = 60.0
    read_seconds: float = 60.0
    total_seconds: float = 60.0


@dataclass(frozen=True)
class HttpRequest:
    """One request, ready to be sent."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # repr would show the credential
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class HttpAnswer:
    """One answer, read to its end. Header names are in lower case."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


Transport = Callable[[HttpRequest, Timeouts], HttpAnswer]
"""Sends one request once. Raises TransportError, with `sent=False` if nothing can have reached the coordinator.

The hook for everything special: a unix socket, mutual TLS, a recorder. Must be safe to call from several threads.
"""


class HttpxTransport:
    """The transport that is used unless another is given: httpx, one pool of connections."""

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ca_file: Path | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        verify = True if ca_file is None else _trusting(ca_file)
        self._client = httpx.Client(proxy=proxy, verify=verify, follow_redirects=False)
        self._max_answer_bytes = max_answer_bytes

    def __call__(self, request: HttpRequest, timeouts: Timeouts) -> HttpAnswer:
        """Send `request` once and read the whole answer."""
        with _as_transport_errors(request), self._stream(request, timeouts) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return HttpAnswer(response.status_code, headers, b"".join(self._counted(response)))

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    @contextmanager
    def _stream(self, request: HttpRequest, timeouts: Timeouts) -> Iterator[httpx.Response]:
        # Without compression an answer is as long as it says: nothing small unfolds into something huge.
        headers = {"Accept-Encoding": "identity", **request.headers}
        limits = httpx.Timeout(
            connect=timeouts.connect_seconds,
            write=timeouts.write_seconds,
            read=timeouts.read_seconds,
            pool=timeouts.total_seconds,
        )
        with self._client.stream(
            request.method, request.url, headers=headers, content=request.body, timeout=limits
        ) as response:
            yield response

    def _counted(self, response: httpx.Response) -> Iterator[bytes]:
        num_bytes = 0
        for chunk in response.iter_raw():
            num_bytes += len(chunk)
            if num_bytes > self._max_answer_bytes:
                raise TransportError(f"the answer is longer than {self._max_answer_bytes} bytes")
            yield chunk


def _trusting(ca_file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise TransportError(f"no certificates can be read from {ca_file}: {error}", sent=False) from error


@contextmanager
def _as_transport_errors(request: HttpRequest) -> Iterator[None]:
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise TransportError(f"cannot reach {request.url}: {_reason(error)}", sent=False) from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise TransportError(f"{request.url!r} is not an http(s) address: {error}", sent=False) from error
    except httpx.TimeoutException as error:
        raise TransportError(f"{request.method} {request.url} took too long: {_reason(error)}") from error
    except httpx.HTTPError as error:
        raise TransportError(f"{request.method} {request.url} failed: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
