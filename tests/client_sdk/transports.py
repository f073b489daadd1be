"""Real transports with something in between: tampering, losing, killing, recording."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pfedbayespt.client import HttpAnswer, HttpRequest, Timeouts
from pfedbayespt.client.transport import HttpxTransport


class Killed(BaseException):
    """The process dies here: no handler of the product may catch this."""


@dataclass
class Spy:
    """Sends requests over HTTP; `before` and `after` may look, change or raise."""

    before: Callable[[HttpRequest], HttpRequest] = lambda request: request
    after: Callable[[HttpRequest, HttpAnswer], HttpAnswer] = lambda request, answer: answer
    sent: list[HttpRequest] = field(default_factory=list)
    _real: HttpxTransport = field(default_factory=HttpxTransport)

    def __call__(self, request: HttpRequest, timeouts: Timeouts) -> HttpAnswer:
        request = self.before(request)
        self.sent.append(request)
        return self.after(request, self._real(request, timeouts))

    def updates(self) -> list[bytes]:
        """The updates that were sent, in order."""
        return [request.body for request in self.sent if is_update(request)]


def is_update(request: HttpRequest) -> bool:
    return request.method == "PUT" and "/updates/" in request.url


def is_download(request: HttpRequest) -> bool:
    return request.method == "GET" and request.url.endswith("/parameters")


def is_assignment(request: HttpRequest) -> bool:
    return request.url.endswith("/v1/sites/me/assignment")
