"""A fake coordinator: `FakeFederation` behind HTTP on the loopback interface.

Rules:
1. It serves the operations that a site uses, with the real paths, messages, problem documents and headers. Every
   other path is `not_found`.
2. One request at a time reaches the federation, in the order of arrival.
"""

import base64
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote

import jwt

from pfedbayespt.protocol import (
    IDENTITY_PATH,
    MAX_ASSERTION_SECONDS,
    STATEMENT_HEADER,
    AccessToken,
    Evaluation,
    Page,
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
from pfedbayespt.testing.faults import Faults
from pfedbayespt.testing.federation import FakeFederation
from pfedbayespt.testing.loopback import Answer, LoopbackServer, Request, json_answer, problem_answer
from pfedbayespt.testing.records import Member, Refusal

_TOKEN_SECONDS: Final = 900
_UNCHECKED: Final[Any] = {
    f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")
}
_DIGEST: Final = re.compile(r"sha-256=:([A-Za-z0-9+/=]+):")


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
        self._server: LoopbackServer | None = None

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
        self._server = LoopbackServer(self._port, self.answer, self.faults)
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
                return problem_answer(refusal)

    def _route(self, request: Request) -> Answer:
        for (method, pattern), operation in _OPERATIONS.items():
            match = re.fullmatch(pattern, request.path)
            if match and method == request.method:
                places = tuple(unquote(place) for place in match.groups())
                return operation(self, Request(method, request.path, request.headers, request.body, places))
        raise Refusal(ProblemType.NOT_FOUND, f"a fake coordinator has no {request.method} {request.path}")

    def _identity(self, _: Request) -> Answer:
        return json_answer(self.federation.identity)

    def _ready(self, _: Request) -> Answer:
        return Answer(200, b'{"status":"ready"}')

    def _enrol(self, request: Request) -> Answer:
        return json_answer(self.federation.enrol(request.read(SiteEnrol)), 201)

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
        return json_answer(AccessToken(access_token=token, expires_in=_TOKEN_SECONDS))

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
        return json_answer(self._caller(request).site)

    def _assignment(self, request: Request) -> Answer:
        return json_answer(self.federation.assignment(self._caller(request), self._retry_after_seconds))

    def _leave(self, request: Request) -> Answer:
        return json_answer(self.federation.leave(self._caller(request), request.read(SiteLeave)))

    def _keys(self, request: Request) -> Answer:
        keys = tuple(self._caller(request).keys.values())
        return json_answer(Page[SiteKey](items=keys, next_cursor=None))

    def _add_key(self, request: Request) -> Answer:
        return json_answer(self.federation.add_key(self._caller(request), request.read(SiteKeyAdd)), 201)

    def _retire_key(self, request: Request) -> Answer:
        body = request.read(SiteKeyRetire)
        return json_answer(self.federation.retire_key(self._caller(request), request.places[0], body))

    def _version(self, request: Request) -> Answer:
        self._caller(request)
        version = self.federation.version(self._number(request))
        return json_answer(self.federation.describe_version(version))

    def _parameters(self, request: Request) -> Answer:
        self._caller(request)
        content = self.federation.version(self._number(request)).content
        return Answer(200, content, "application/vnd.safetensors")

    def _evaluation(self, request: Request) -> Answer:
        member = self._caller(request)
        if request.places[2] != member.site.site_id:
            raise Refusal(ProblemType.PERMISSION_DENIED, "a site reports its own evaluations only")
        return json_answer(self.federation.evaluate(member, self._number(request), request.read(Evaluation)))

    def _update(self, request: Request) -> Answer:
        member, (round_id, site_id) = self._caller(request), request.places
        announced, statement = _announced_digest(request), _statement_in(request)
        if digest_of_bytes(request.body) != announced:
            raise Refusal(ProblemType.DIGEST_MISMATCH, f"the body is not {announced}; send it again")
        receipt, is_new = self.federation.accept(member, round_id, site_id, statement, request.body)
        return json_answer(receipt, 201 if is_new else 200)

    def _receipt(self, request: Request) -> Answer:
        return json_answer(self.federation.receipt(self._caller(request), request.places[0]))

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
