"""Whatever was caught on the wire is sent again: at once, by another, elsewhere, later, and after a revocation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.server.harness import (
    Caller,
    Coordinator,
    SiteCaller,
    check,
    key_addition,
    rotate,
    statement_header,
    upload_headers,
)

from pfedbayespt.protocol import SigningKey

Rows = dict[str, Any]


@dataclass(frozen=True)
class Replay:
    """A request that was caught, and how often it is sent again."""

    what: str
    send: Callable[[], Any]


def accepted(coordinator: Coordinator, replay: Replay) -> bool:
    """Whether a replay had an effect: a row that was not there, or an answer that lets somebody in."""
    before = coordinator.dump()
    response = replay.send()
    is_same_receipt = replay.what == "update again" and response.status_code == 200
    return coordinator.dump() != before or (response.status_code < 400 and not is_same_receipt)


def replays(coordinator: Coordinator, number_of_each: int) -> Iterator[Replay]:
    """Play a short history, and yield everything that was caught of it, again."""
    coordinator.federation("alpha", min_sites_to_start=3, quorum=2, num_rounds=1)
    site, other, late = coordinator.sites(3, "alpha")
    coordinator.settle()
    assertions = [site.assertion() for _ in range(number_of_each)]
    for assertion in assertions:
        check(site.ask_for_token(assertion), 200)
    yield from (
        Replay("assertion", lambda assertion=assertion: site.ask_for_token(assertion))
        for assertion in assertions
    )
    yield from _of_enrolments(coordinator, number_of_each)
    yield from _of_updates(coordinator, site, other, number_of_each)
    yield from _after_revocation(coordinator, late, number_of_each)


def _of_enrolments(coordinator: Coordinator, number: int) -> Iterator[Replay]:
    for position in range(number):
        body = coordinator.enrolment(coordinator.token("alpha"), f"caught-{position}", SigningKey.generate())
        check(coordinator.anonymous().request("POST", "/v1/sites", json=body), 201)
        yield Replay(
            "enrolment", lambda body=body: coordinator.anonymous().request("POST", "/v1/sites", json=body)
        )


def _of_updates(
    coordinator: Coordinator, site: SiteCaller, other: SiteCaller, number: int
) -> Iterator[Replay]:
    round_id = coordinator.live_round("alpha")["round_id"]
    content = site.update(coordinator.live_round("alpha"), 1.0, 10)
    headers = upload_headers(content) | statement_header(site.statement(round_id, content))
    path = f"/v1/rounds/{round_id}/updates/{site.site_id}"
    check(site.request("PUT", path, content=content, headers=headers), 201)
    others_path = f"/v1/rounds/{round_id}/updates/{other.site_id}"
    altered = content[:-1] + bytes([content[-1] ^ 1])
    for _ in range(number):
        yield Replay("update again", lambda: site.request("PUT", path, content=content, headers=headers))
        yield Replay(
            "update by another", lambda: other.request("PUT", path, content=content, headers=headers)
        )
        yield Replay(
            "as another's", lambda: other.request("PUT", others_path, content=content, headers=headers)
        )
        yield Replay("other bytes", lambda: site.request("PUT", path, content=altered, headers=headers))
        yield Replay(
            "other bytes, honest digest",
            lambda: site.request("PUT", path, content=altered, headers=headers | upload_headers(altered)),
        )


def _after_revocation(coordinator: Coordinator, site: SiteCaller, number: int) -> Iterator[Replay]:
    old_token, addition = str(site.credential), key_addition(site, SigningKey.generate())
    round_id = coordinator.live_round("alpha")["round_id"]
    content = site.update(coordinator.live_round("alpha"), 1.0, 10)
    old_headers = upload_headers(content) | statement_header(site.statement(round_id, content))
    path = f"/v1/rounds/{round_id}/updates/{site.site_id}"
    rotate(site)
    thief = Caller(site.http, old_token)
    for _ in range(number):
        yield Replay("token of an old key", lambda: thief.request("GET", "/v1/sites/me"))
        yield Replay("old key added", lambda: site.request("POST", "/v1/sites/me/keys", json=addition))
        old_update = partial(site.request, "PUT", path, content=content, headers=old_headers)
        yield Replay("statement of an old key", old_update)
    token = str(site.credential)
    coordinator.admin.post(f"/v1/sites/{site.site_id}/revoke")
    for _ in range(number):
        yield Replay(
            "token of a revoked site", lambda: Caller(site.http, token).request("GET", "/v1/sites/me")
        )
        yield Replay("assertion of a revoked site", lambda: site.ask_for_token(site.assertion()))
