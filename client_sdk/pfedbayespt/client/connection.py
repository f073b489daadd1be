"""One coordinator and one credential: requests go out, messages come back, problems are raised.

Rules:
1. Calls that can be repeated without harm (reads, PUTs, predictions) are tried again after 429, 502, 503, 504
   and after a lost connection. Every other call is repeated only if nothing was sent.
2. A Retry-After header sets the wait; otherwise it doubles from a tenth of a second to five seconds, with jitter.
3. After `Timeouts.total_seconds` a call is not repeated: a wait that would end later is not begun.
4. Unknown fields in an answer are ignored, so that a newer coordinator can say more; what is sent is exact.
"""

import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import stamina
from pydantic import ValidationError

from pfedbayespt.client import tracing
from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.client.errors import AuthenticationRequired, ProblemError, TransportError, problem_error
from pfedbayespt.client.transport import HttpAnswer, HttpRequest, Timeouts, Transport
from pfedbayespt.protocol import (
    PROTOCOL_HEADER,
    PROTOCOL_VERSION,
    AccessToken,
    Message,
    Page,
    Problem,
    ProblemType,
    TokenRequest,
    protocol_mismatch,
)

RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_FIRST_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 5.0
_LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})

Answer = TypeVar("Answer", bound=Message)
Item = TypeVar("Item", bound=Message)
Credential = str | SiteIdentity | None
QueryValue = str | int | float | None

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connection:
    """What every resource of the client shares.

    Attributes:
        base_url: the coordinator's address, without `/v1`.
        credential: admin token, API key, or a site's identity; None for calls that need none.
        transport: sends one request once.
        timeouts: how long to wait for what.
        clock: monotonic seconds.
    """

    base_url: str
    credential: Credential
    transport: Transport
    timeouts: Timeouts = field(default_factory=Timeouts)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        address = urlsplit(self.base_url)
        if address.scheme not in {"http", "https"} or not address.hostname:
            raise TransportError(
                f"{self.base_url!r} is not a coordinator's address; allowed: http://... or https://...",
                sent=False,
            )
        if isinstance(self.credential, str) and not all(
            "!" <= character <= "~" for character in self.credential
        ):
            raise TransportError("the credential holds blanks or characters that no token has", sent=False)
        if address.scheme == "http" and self.credential and address.hostname not in _LOOPBACK_HOSTS:
            logger.warning("the credential for %s travels unencrypted; use https://", address.hostname)

    def get(self, path: str, answer: type[Answer], **query: QueryValue) -> Answer:
        """GET `path` and read the answer as `answer`."""
        return parse(self.send("GET", path, query=query), answer)

    def post(self, path: str, answer: type[Answer], message: Message | None = None) -> Answer:
        """POST `message` to `path`, once, and read the answer as `answer`."""
        if message is None:
            return parse(self.send("POST", path), answer)
        return parse(self.send("POST", path, body=to_json(message), media_type="application/json"), answer)

    def pages(
        self, path: str, item: type[Item], page_size: int = 100, **wanted: QueryValue
    ) -> Iterator[Item]:
        """Yield the items of a list, or those that are `wanted`, asking for one page after the other."""
        cursor: str | None = None
        while True:
            page = self.get(
                path,
                Page[item],  # type: ignore[valid-type]
                cursor=cursor,
                limit=page_size,
                **wanted,
            )
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, QueryValue] | None = None,
        body: bytes = b"",
        media_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        idempotent: bool | None = None,
    ) -> HttpAnswer:
        """Send one request, again where rule 1 allows it, and return the answer if it is a 2xx.

        Raises:
            ProblemError: the coordinator said no.
            TransportError: it said nothing, or nothing that can be understood.
        """
        request = HttpRequest(
            method, self._url(path, query or {}), self._headers(media_type, headers or {}), body
        )
        repeatable = method in {"GET", "PUT"} if idempotent is None else idempotent
        rule = _RetryRule(repeatable, self.clock() + self.timeouts.total_seconds, self.clock)
        for attempt in stamina.retry_context(on=rule, attempts=None, timeout=None):
            with attempt:
                answer = self._sent(request)
        return answer

    def exchange(self, assertion: str) -> AccessToken:
        """Ask for the access token that a site's assertion is good for, once."""
        form = urlencode(TokenRequest(client_assertion=assertion).model_dump()).encode()
        anonymous = replace(self, credential=None)
        answer = anonymous.send(
            "POST", "/v1/token", body=form, media_type="application/x-www-form-urlencoded"
        )
        return parse(answer, AccessToken)

    def _sent(self, request: HttpRequest) -> HttpAnswer:
        """Send one request, with another token if the first has just become worthless."""
        if not isinstance(self.credential, SiteIdentity):
            return self._sent_with(request, self.credential)
        token = self.credential.access_token(self.exchange)
        try:
            return self._sent_with(request, token)
        except AuthenticationRequired:
            self.credential.forget(token)
            return self._sent_with(request, self.credential.access_token(self.exchange))

    def _sent_with(self, request: HttpRequest, token: str | None) -> HttpAnswer:
        if token:
            request = replace(request, headers={**request.headers, "Authorization": f"Bearer {token}"})
        answer = tracing.sent(self.transport, request, self.timeouts)
        _check_protocol(answer)
        _raise_for_problem(answer, request)
        return answer

    def _url(self, path: str, query: Mapping[str, QueryValue]) -> str:
        given = {name: value for name, value in query.items() if value is not None}
        return self.base_url.rstrip("/") + path + (f"?{urlencode(given)}" if given else "")

    def _headers(self, media_type: str | None, extra: Mapping[str, str]) -> dict[str, str]:
        headers = {"Accept": "application/json, application/problem+json", "User-Agent": "pfedbayespt"}
        headers[PROTOCOL_HEADER] = PROTOCOL_VERSION
        if media_type:
            headers["Content-Type"] = media_type
        return {**headers, **extra}


@dataclass
class _RetryRule:
    """Decides, failure after failure of one call, whether and when to try again (rules 1 to 3)."""

    repeatable: bool
    deadline: float
    clock: Callable[[], float]
    num_failures: int = 0

    def __call__(self, error: Exception) -> bool | float:
        """Return how many seconds to wait before the next attempt; False: there is none."""
        self.num_failures += 1
        if not self._may_pass(error):
            return False
        asked_for = getattr(error, "retry_after_seconds", None)
        wait = self._backoff_seconds() if asked_for is None else asked_for
        return wait if self.clock() + wait < self.deadline else False

    def _may_pass(self, error: Exception) -> bool:
        if isinstance(error, ProblemError):
            return self.repeatable and error.status in RETRIED_STATUSES
        return isinstance(error, TransportError) and (self.repeatable or not error.sent)

    def _backoff_seconds(self) -> float:
        longest = min(_MAX_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0**self.num_failures)
        return random.uniform(longest / 2, longest)  # noqa: S311 - spreads load, protects nothing


def segment(value: str | int) -> str:
    """Return `value` as one segment of a path, whatever characters it holds."""
    return quote(str(value), safe="")


def to_json(message: Message) -> bytes:
    """Return the message as it is sent."""
    return message.model_dump_json().encode()


def parse(answer: HttpAnswer, message: type[Answer]) -> Answer:
    """Read the body of `answer` as a message.

    Raises:
        TransportError: it is not one.
    """
    try:
        return message.model_validate_json(answer.body, extra="ignore")
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"]) or "the body"
        raise TransportError(
            f"the answer is not a {message.__name__} ({where}: {fault['msg']}); "
            "is this the address of a pfedbayespt coordinator of the same version?"
        ) from error


def _check_protocol(answer: HttpAnswer) -> None:
    """Refuse a coordinator of another protocol; a proxy in between, or an early release, says nothing."""
    theirs = answer.headers.get(PROTOCOL_HEADER.lower(), PROTOCOL_VERSION)
    told = protocol_mismatch(PROTOCOL_VERSION, theirs, "the SDK", "the coordinator")
    if told is not None:
        kind = ProblemType.PROTOCOL_MISMATCH
        raise problem_error(Problem(type=kind.urn, title=kind.title, status=kind.status, detail=told))


def _raise_for_problem(answer: HttpAnswer, request: HttpRequest) -> None:
    if 200 <= answer.status < 300:
        return
    raise problem_error(_problem_of(answer, request), _retry_after_seconds(answer.headers.get("retry-after")))


def _problem_of(answer: HttpAnswer, request: HttpRequest) -> Problem:
    """Read the problem document; a proxy in between answers with something else."""
    try:
        return Problem.model_validate(json.loads(answer.body))
    except ValueError:
        title = f"HTTP {answer.status}"
        detail = f"{request.method} {request.url} was answered with {title} and no problem document"
        if "location" in answer.headers:
            detail += f", but sent on to {answer.headers['location']}: give the coordinator's own address"
        return Problem(type="about:blank", title=title, status=answer.status, detail=detail)


def _retry_after_seconds(value: str | None) -> float | None:
    """Read a Retry-After header: seconds or a date (RFC 9110 section 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return seconds if 0.0 <= seconds < float("inf") else 0.0
