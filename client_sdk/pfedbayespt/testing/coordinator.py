"""A fake coordinator: `FakeFederation` behind HTTP on the loopback interface, from the standard library's server.

Rules:
1. It serves the operations that a site uses, with the real paths, messages, problem documents and headers. Every
   other path is `not_found`.
2. One request at a time reaches the federation, in the order of arrival.
3. Faults come about outside of the federation: what was done stays done, whether or not its answer arrives.
"""

import base64
import json
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import jwt
from pydantic import ValidationError

from pfedbayespt.protocol import (
    IDENTITY_PATH,
    MAX_ASSERTION_SECONDS,
    PROBLEM_MEDIA_TYPE,
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    STATEMENT_HEADER,
    AccessToken,
    Evaluation,
    Message,
    Page,
    Problem,
    ProblemType,
    SignatureError,
    SiteEnrol,
    SiteKey,
    SiteKeyAdd,
    SiteKeyRetire,
    SiteLeave,
    SiteStatus,
    UpdateStatement,
    digest_of_bytes,
    public_key_of,
)
from pfedbayespt.testing.faults import Fault, Faults
from pfedbayespt.testing.federation import FakeFederation, Member, Refusal

_TOKEN_SECONDS: Final = 900
_UNCHECKED: Final[Any] = {
    f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")
}
_DIGEST: Final = re.compile(r"sha-256=:([A-Za-z0-9+/=]+):")
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


class FakeCoordinator:
    """A coordinator that sites can talk to, for the length of a `with` block.

    Args:
        federation: what it coordinates.
        retry_after_seconds: how long sites wait before they ask again.

    Attributes:
        federation: may be looked at, and its round closed, while sites work; hold `lock` meanwhile.
        faults: what is to go wrong.
        requests: `METHOD /path` of every request that was answered, in order.
        clock: seconds since 1970, by which assertions are judged; replace it to have the clocks differ.
    """

    def __init__(self, federation: FakeFederation, *, retry_after_seconds: float = 0.02) -> None:
        self.federation = federation
        self.faults = Faults()
        self.requests: list[str] = []
        self.lock = threading.RLock()
        self.clock: Callable[[], float] = time.time
        self._retry_after_seconds = retry_after_seconds
        self._tokens: dict[str, tuple[str, str]] = {}
        self._used_assertions: set[str] = set()
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it answers; the same after a restart."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Begin to listen."""
        self._server = _Server(("127.0.0.1", self._port), _handler_of(self))
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), name="fake", daemon=True).start()

    def stop(self) -> None:
        """Stop listening; what the federation knows stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def invite(self, organisation: str = "clinic") -> str:
        """Return a one-use enrolment token."""
        with self.lock:
            return self.federation.invite(organisation)

    def close_round(self) -> None:
        """Close the live round by hand."""
        with self.lock:
            self.federation.close()

    def forget_tokens(self) -> None:
        """Have every access token that was given out be good no more."""
        with self.lock:
            self._tokens.clear()

    def answer(self, request: Request) -> Answer:
        """Return the answer to one request."""
        with self.lock:
            self.requests.append(f"{request.method} {request.path}")
            try:
                return self._route(request)
            except Refusal as refusal:
                return _problem(refusal)

    def _route(self, request: Request) -> Answer:
        for (method, pattern), operation in _OPERATIONS.items():
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                places = tuple(unquote(place) for place in match.groups())
                return operation(self, Request(method, request.path, request.headers, request.body, places))
        raise Refusal(ProblemType.NOT_FOUND, f"a fake coordinator has no {request.method} {request.path}")

    def _identity(self, _: Request) -> Answer:
        return _json(self.federation.identity)

    def _ready(self, _: Request) -> Answer:
        return Answer(200, b'{"status":"ready"}')

    def _enrol(self, request: Request) -> Answer:
        return _json(self.federation.enrol(request.read(SiteEnrol)), 201)

    def _token(self, request: Request) -> Answer:
        form = parse_qs(request.body.decode())
        assertion = form.get("client_assertion", [""])[0]
        try:
            key_id = str(jwt.get_unverified_header(assertion).get("kid"))
            member, key = self._holder(key_id)
            claims = jwt.decode(assertion, public_key_of(key.public_key), ["EdDSA"], options=_UNCHECKED)
            self._check_claims(claims, member)
        except (jwt.PyJWTError, KeyError, TypeError, SignatureError) as error:
            raise _not_valid() from error
        token = secrets.token_urlsafe(24)
        self._tokens[token] = (member.site.site_id, key_id)
        return _json(AccessToken(access_token=token, expires_in=_TOKEN_SECONDS))

    def _holder(self, key_id: str) -> tuple[Member, SiteKey]:
        for member in self.federation.members.values():
            if key_id in member.keys and member.site.status is SiteStatus.ACTIVE:
                return member, member.keys[key_id]
        raise _not_valid()

    def _check_claims(self, claims: Mapping[str, Any], member: Member) -> None:
        names = (claims["iss"], claims["sub"], claims["aud"])
        if names != (member.site.site_id, member.site.site_id, self.federation.key.key_id):
            raise _not_valid()
        now = self.clock()
        is_for_now = claims["iat"] <= now + MAX_ASSERTION_SECONDS and claims["exp"] > now
        if not is_for_now or claims["exp"] - claims["iat"] > MAX_ASSERTION_SECONDS:
            told = datetime.fromtimestamp(now, UTC).isoformat()
            raise Refusal(
                ProblemType.AUTHENTICATION_REQUIRED, "the assertion is not for now", server_time=told
            )
        if claims["jti"] in self._used_assertions:
            raise _not_valid()
        self._used_assertions.add(claims["jti"])

    def _caller(self, request: Request) -> Member:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        site_id, key_id = self._tokens.get(token, ("", ""))
        member = self.federation.members.get(site_id)
        if scheme != "Bearer" or member is None or key_id not in member.keys:
            raise _not_valid()
        if member.site.status is not SiteStatus.ACTIVE:
            raise _not_valid()
        return member

    def _me(self, request: Request) -> Answer:
        return _json(self._caller(request).site)

    def _assignment(self, request: Request) -> Answer:
        return _json(self.federation.assignment(self._caller(request), self._retry_after_seconds))

    def _leave(self, request: Request) -> Answer:
        return _json(self.federation.leave(self._caller(request), request.read(SiteLeave)))

    def _keys(self, request: Request) -> Answer:
        keys = tuple(self._caller(request).keys.values())
        return _json(Page[SiteKey](items=keys, next_cursor=None))

    def _add_key(self, request: Request) -> Answer:
        return _json(self.federation.add_key(self._caller(request), request.read(SiteKeyAdd)), 201)

    def _retire_key(self, request: Request) -> Answer:
        body = request.read(SiteKeyRetire)
        return _json(self.federation.retire_key(self._caller(request), request.places[0], body))

    def _version(self, request: Request) -> Answer:
        self._caller(request)
        version = self.federation.version(self._number(request))
        return _json(self.federation.describe_version(version))

    def _parameters(self, request: Request) -> Answer:
        self._caller(request)
        content = self.federation.version(self._number(request)).content
        return Answer(200, content, "application/vnd.safetensors")

    def _evaluation(self, request: Request) -> Answer:
        member = self._caller(request)
        if request.places[2] != member.site.site_id:
            raise Refusal(ProblemType.PERMISSION_DENIED, "a site reports its own evaluations only")
        return _json(self.federation.evaluate(member, self._number(request), request.read(Evaluation)))

    def _update(self, request: Request) -> Answer:
        member, (round_id, site_id) = self._caller(request), request.places
        announced, statement = _announced_digest(request), _statement_in(request)
        if digest_of_bytes(request.body) != announced:
            raise Refusal(ProblemType.DIGEST_MISMATCH, f"the body is not {announced}; send it again")
        receipt, is_new = self.federation.accept(member, round_id, site_id, statement, request.body)
        return _json(receipt, 201 if is_new else 200)

    def _receipt(self, request: Request) -> Answer:
        return _json(self.federation.receipt(self._caller(request), request.places[0]))

    def _number(self, request: Request) -> int:
        name, number = request.places[:2]
        if name != self.federation.name or not number.isdigit():
            raise Refusal(ProblemType.NOT_FOUND, f"there is no version {number!r} of {name!r}")
        return int(number)


_VERSION: Final = r"/v1/federations/([^/]+)/model-versions/([^/]+)"
_OPERATIONS: Final[dict[tuple[str, str], Callable[[FakeCoordinator, Request], Answer]]] = {
    ("GET", re.escape(IDENTITY_PATH)): FakeCoordinator._identity,  # noqa: SLF001
    ("GET", "/readyz"): FakeCoordinator._ready,  # noqa: SLF001
    ("POST", "/v1/sites"): FakeCoordinator._enrol,  # noqa: SLF001
    ("POST", "/v1/token"): FakeCoordinator._token,  # noqa: SLF001
    ("GET", "/v1/sites/me"): FakeCoordinator._me,  # noqa: SLF001
    ("GET", "/v1/sites/me/assignment"): FakeCoordinator._assignment,  # noqa: SLF001
    ("POST", "/v1/sites/me/leave"): FakeCoordinator._leave,  # noqa: SLF001
    ("GET", "/v1/sites/me/keys"): FakeCoordinator._keys,  # noqa: SLF001
    ("POST", "/v1/sites/me/keys"): FakeCoordinator._add_key,  # noqa: SLF001
    ("POST", "/v1/sites/me/keys/([^/]+)/retire"): FakeCoordinator._retire_key,  # noqa: SLF001
    ("GET", _VERSION): FakeCoordinator._version,  # noqa: SLF001
    ("GET", f"{_VERSION}/parameters"): FakeCoordinator._parameters,  # noqa: SLF001
    ("PUT", f"{_VERSION}/evaluations/([^/]+)"): FakeCoordinator._evaluation,  # noqa: SLF001
    ("PUT", "/v1/rounds/([^/]+)/updates/([^/]+)"): FakeCoordinator._update,  # noqa: SLF001
    ("GET", "/v1/updates/([^/]+)/receipt"): FakeCoordinator._receipt,  # noqa: SLF001
}


class _Server(ThreadingHTTPServer):
    """A server whose end is the end of its connections, idle ones too."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection. `coordinator` is set by `_handler_of`."""

    coordinator: FakeCoordinator
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
        fault = self.coordinator.faults.take(f"{self.command} {path}")
        answer = self._answer(fault, Request(self.command, path, headers, body))
        if answer is None:
            self.close_connection = True
        else:
            self._send(answer, is_torn=fault is Fault.TORN)

    do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - the standard library's names

    def log_message(self, *_: Any) -> None:
        """Say nothing: `requests` has it."""

    def _answer(self, fault: Fault | None, request: Request) -> Answer | None:
        """Return the answer, None if the connection is to be cut."""
        if fault is Fault.CUT:
            return None
        if fault is Fault.BUSY:
            return _busy(self.coordinator.faults.seconds)
        if fault is Fault.SLOW:
            time.sleep(self.coordinator.faults.seconds)
        answer = self.coordinator.answer(request)
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


def _handler_of(coordinator: FakeCoordinator) -> type[_Handler]:
    return type("Handler", (_Handler,), {"coordinator": coordinator})


def _json(message: Message, status: int = 200) -> Answer:
    return Answer(status, message.model_dump_json().encode())


def _problem(refusal: Refusal) -> Answer:
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
    answer = _problem(Refusal(ProblemType.OVERLOADED, "busy, as planned"))
    return Answer(answer.status, answer.body, answer.media_type, {"Retry-After": f"{max(1, round(seconds))}"})


def _not_valid() -> Refusal:
    return Refusal(ProblemType.AUTHENTICATION_REQUIRED, "the credential is not valid")


def _announced_digest(request: Request) -> str:
    match = _DIGEST.fullmatch(request.headers.get("content-digest", ""))
    if match is None:
        raise Refusal(ProblemType.INVALID_REQUEST, "send the header `Content-Digest: sha-256=:<base64>:`")
    try:
        return f"sha256:{base64.b64decode(match[1], validate=True).hex()}"
    except ValueError as error:
        raise Refusal(ProblemType.INVALID_REQUEST, "`Content-Digest` is not base64") from error


def _statement_in(request: Request) -> UpdateStatement:
    text = request.headers.get(STATEMENT_HEADER.lower(), "")
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        return UpdateStatement.model_validate(json.loads(content))
    except ValueError as error:
        raise Refusal(ProblemType.INVALID_REQUEST, f"{STATEMENT_HEADER}: {error}") from error
