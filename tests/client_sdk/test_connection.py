"""Retries, problems, credentials and pages, against a real HTTP server that fails on purpose."""

import base64
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from tests.client_sdk.scripted_app import Scripted, ScriptedApp, problem

from pfedbayespt.client.connection import _RetryRule
from pfedbayespt.client.coordinator import CoordinatorClient
from pfedbayespt.client.errors import (
    InternalError,
    Overloaded,
    ProblemError,
    RoundClosed,
    TransportError,
)
from pfedbayespt.client.transport import HttpAnswer, HttpRequest, HttpxTransport, Timeouts
from pfedbayespt.protocol import Evaluation, ProblemType, SigningKey, UpdateStatement, digest_of_bytes

Serve = Callable[[Any], str]

KEY = SigningKey.generate()
STATEMENT = UpdateStatement.signed(
    KEY,
    federation="shapes",
    round_id="rnd_1",
    site_id="sit_1",
    base_digest=digest_of_bytes(b"base"),
    update_digest=digest_of_bytes(b"hello"),
    num_examples=1,
    nonce="0" * 32,
)

SITE = {
    "site_id": "sit_1",
    "site_name": "clinic-a",
    "organisation": "clinic",
    "federation": "letters",
    "status": "active",
    "enrolled_at": "2026-11-22T10:00:00Z",
    "last_seen_at": None,
}
A_SITE = Scripted(body=json.dumps(SITE).encode())
EVENT = {
    "event_id": 1,
    "previous_hash": "0" * 64,
    "hash": "0" * 64,
    "federation": "letters",
    "actor": "admin",
    "action": "round.started",
    "subject": "rnd_1",
    "details": {},
    "occurred_at": "2026-11-22T10:00:00Z",
}
QUICK = Timeouts(total_seconds=10)


def page_of_events(numbers: range, next_cursor: str | None) -> Scripted:
    items = [{**EVENT, "event_id": number} for number in numbers]
    return Scripted(body=json.dumps({"items": items, "next_cursor": next_cursor}).encode())


def test_a_refused_read_is_tried_again_after_the_time_the_coordinator_asked_for(serve: Serve) -> None:
    app = ScriptedApp(problem(ProblemType.OVERLOADED, retry_after="0"), A_SITE)
    with CoordinatorClient(serve(app), "secret", timeouts=QUICK) as client:
        assert client.sites.me().site_name == "clinic-a"
    assert len(app.asked) == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_proxy_that_answers_without_a_problem_document_is_retried_too(serve: Serve, status: int) -> None:
    app = ScriptedApp(Scripted(status, b"<html>busy</html>", {"retry_after": "0"}), A_SITE)
    with CoordinatorClient(serve(app), "secret", timeouts=QUICK) as client:
        assert client.sites.me().site_id == "sit_1"


def test_a_wait_that_would_end_after_the_deadline_is_not_begun(serve: Serve) -> None:
    app = ScriptedApp(problem(ProblemType.OVERLOADED, retry_after="3600"))
    with (
        CoordinatorClient(serve(app), "secret", timeouts=QUICK) as client,
        pytest.raises(Overloaded) as caught,
    ):
        client.sites.me()
    assert caught.value.retry_after_seconds == 3600
    assert len(app.asked) == 1


def test_retries_end_with_the_deadline_and_raise_the_last_problem(serve: Serve) -> None:
    app = ScriptedApp(problem(ProblemType.OVERLOADED))
    client = CoordinatorClient(serve(app), "secret", timeouts=Timeouts(total_seconds=0.3))
    with client, pytest.raises(Overloaded):
        client.sites.me()


def test_what_could_be_done_twice_is_not_repeated(serve: Serve) -> None:
    app = ScriptedApp(problem(ProblemType.OVERLOADED, retry_after="0"))
    with CoordinatorClient(serve(app), "admin", timeouts=QUICK) as client, pytest.raises(Overloaded):
        client.rounds.start("letters")
    assert len(app.asked) == 1


def test_waits_grow_from_failure_to_failure_and_end_before_the_deadline() -> None:
    waits: list[float] = []
    rule = _RetryRule(repeatable=True, deadline=20.0, clock=lambda: sum(waits))
    while (wait := rule(TransportError("the connection broke"))) is not False:
        waits.append(wait)
    bounds = [min(5.0, 0.2 * 2**number) for number in range(len(waits))]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))
    assert 15.0 <= sum(waits) < 20.0


def test_a_problem_that_time_does_not_mend_is_not_retried(serve: Serve) -> None:
    app = ScriptedApp(problem(ProblemType.INTERNAL_ERROR))
    with CoordinatorClient(serve(app), "secret", timeouts=QUICK) as client, pytest.raises(InternalError):
        client.sites.me()
    assert len(app.asked) == 1


def test_a_lost_connection_is_retried_until_the_deadline() -> None:
    attempts: list[HttpRequest] = []

    def lose(request: HttpRequest, timeouts: Timeouts) -> HttpAnswer:
        attempts.append(request)
        if len(attempts) == 1:
            raise TransportError("the connection broke")
        return HttpAnswer(200, {}, A_SITE.body)

    client = CoordinatorClient("http://localhost:1", "secret", transport=lose)
    assert client.sites.me().site_name == "clinic-a"
    assert len(attempts) == 2


@pytest.mark.parametrize(("sent", "expected_attempts"), [(False, 2), (True, 1)])
def test_a_call_that_is_not_idempotent_is_repeated_only_if_nothing_was_sent(
    sent: bool, expected_attempts: int
) -> None:
    attempts: list[HttpRequest] = []

    def lose(request: HttpRequest, timeouts: Timeouts) -> HttpAnswer:
        attempts.append(request)
        if len(attempts) > 1:
            return HttpAnswer(500)
        raise TransportError("the connection broke", sent=sent)

    client = CoordinatorClient("http://localhost:1", "secret", transport=lose)
    with pytest.raises((TransportError, ProblemError)):
        client.rounds.start("letters")
    assert len(attempts) == expected_attempts


def test_nobody_listening_is_a_transport_error_that_names_the_address() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        client = CoordinatorClient(address, "secret", timeouts=Timeouts(total_seconds=0.3))
        with client, pytest.raises(TransportError, match=address) as caught:
            client.sites.me()
    assert not caught.value.sent


@pytest.mark.parametrize("address", ["coordinator:8000", "ftp://coordinator", "", "http://"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(TransportError, match="not a coordinator's address"):
        CoordinatorClient(address, "secret")


def test_a_known_problem_raises_its_own_exception_with_the_coordinators_words(serve: Serve) -> None:
    app = ScriptedApp(problem(ProblemType.ROUND_CLOSED, "round 3 closed at 10:00"))
    client = CoordinatorClient(serve(app), "secret", timeouts=QUICK)
    with client, pytest.raises(RoundClosed, match="round 3 closed at 10:00") as caught:
        client.rounds.close("rnd_1")
    assert caught.value.status == 409


def test_an_unknown_problem_raises_the_generic_exception(serve: Serve) -> None:
    document = {"type": "urn:pfedbayespt:problem:from_the_future", "title": "t", "status": 418, "detail": "d"}
    app = ScriptedApp(Scripted(418, json.dumps(document).encode()))
    with CoordinatorClient(serve(app), "s", timeouts=QUICK) as client, pytest.raises(ProblemError) as caught:
        client.sites.me()
    assert type(caught.value) is ProblemError
    assert caught.value.problem.type.endswith("from_the_future")


def test_a_redirect_is_not_followed_so_the_credential_stays_here(serve: Serve) -> None:
    elsewhere = ScriptedApp(A_SITE)
    app = ScriptedApp(Scripted(307, b"", {"location": serve(elsewhere)}))
    with (
        CoordinatorClient(serve(app), "s", timeouts=QUICK) as client,
        pytest.raises(ProblemError, match="sent on"),
    ):
        client.sites.me()
    assert not elsewhere.asked


def test_a_successful_answer_of_another_form_is_a_transport_error(serve: Serve) -> None:
    app = ScriptedApp(Scripted(200, b"<html>welcome</html>"))
    with (
        CoordinatorClient(serve(app), "s", timeouts=QUICK) as client,
        pytest.raises(TransportError, match="Site"),
    ):
        client.sites.me()


def test_fields_that_a_newer_coordinator_adds_are_ignored(serve: Serve) -> None:
    app = ScriptedApp(Scripted(body=json.dumps({**SITE, "mood": "good"}).encode()))
    with CoordinatorClient(serve(app), "s", timeouts=QUICK) as client:
        assert client.sites.me().site_id == "sit_1"


def test_an_answer_that_never_ends_is_cut_off_at_the_cap(serve: Serve) -> None:
    app = ScriptedApp(Scripted(body=b"x" * 100_000))
    transport = HttpxTransport(max_answer_bytes=50_000)
    with pytest.raises(TransportError, match="longer than 50000 bytes"):
        transport(HttpRequest("GET", serve(app)), QUICK)
    transport.close()


def test_an_answer_that_does_not_come_is_a_transport_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = HttpxTransport()
        request = HttpRequest("GET", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(TransportError, match="too long") as caught:
            transport(request, Timeouts(read_seconds=0.1))
        transport.close()
    assert caught.value.sent


def test_pages_are_followed_to_the_last_one(serve: Serve) -> None:
    app = ScriptedApp(page_of_events(range(1, 4), "after-3"), page_of_events(range(4, 5), None))
    with CoordinatorClient(serve(app), "admin", timeouts=QUICK) as client:
        assert [event.event_id for event in client.events("letters")] == [1, 2, 3, 4]
    assert "cursor=after-3" in app.asked[1].query


def test_names_cannot_leave_their_segment_of_the_path(serve: Serve) -> None:
    app = ScriptedApp(problem(ProblemType.NOT_FOUND))
    with CoordinatorClient(serve(app), "s", timeouts=QUICK) as client, pytest.raises(ProblemError):
        client.federations.get("../sites/me?x=1")
    assert app.asked[0].path == "/v1/federations/..%2Fsites%2Fme%3Fx%3D1"


def test_an_update_travels_with_its_digest_and_length(serve: Serve) -> None:
    app = ScriptedApp(problem(ProblemType.ROUND_CLOSED))
    with CoordinatorClient(serve(app), "s", timeouts=QUICK) as client, pytest.raises(RoundClosed):
        client.updates.submit(STATEMENT, b"hello")
    (asked,) = app.asked
    assert asked.body == b"hello"
    assert asked.headers["content-length"] == "5"
    assert asked.headers["content-type"] == "application/vnd.safetensors"
    assert asked.headers["content-digest"] == "sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:"
    assert asked.headers["authorization"] == "Bearer s"
    assert "=" not in asked.headers["update-statement"]
    sent = base64.urlsafe_b64decode(asked.headers["update-statement"] + "==")
    assert UpdateStatement.model_validate_json(sent) == STATEMENT


def test_the_enrolment_token_is_sent_in_clear_but_never_shown(serve: Serve) -> None:
    app = ScriptedApp(problem(ProblemType.ENROLMENT_TOKEN_REFUSED))
    with CoordinatorClient(serve(app), timeouts=QUICK) as client, pytest.raises(ProblemError):
        client.sites.enrol("enr_abc", "clinic-a", KEY, KEY.key_id)
    sent = json.loads(app.asked[0].body)
    assert (sent["token"], sent["site_name"], sent["public_key"]) == ("enr_abc", "clinic-a", KEY.public_key)
    assert "authorization" not in app.asked[0].headers
    assert "secret" not in repr(HttpRequest("GET", "http://x", {"Authorization": "Bearer secret"}))


@pytest.mark.parametrize(
    ("start", "media_type"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n", "image/png"),
        (b"RIFF____WEBP", "image/webp"),
        (b"GIF89a", "application/octet-stream"),
    ],
)
def test_the_media_type_of_an_image_is_told_by_its_content(
    serve: Serve, start: bytes, media_type: str
) -> None:
    app = ScriptedApp(problem(ProblemType.NO_SERVING_VERSION))
    with CoordinatorClient(serve(app), "s", timeouts=QUICK) as client, pytest.raises(ProblemError):
        client.predict("letters", start, num_samples=8, seed=0)
    assert app.asked[0].headers["content-type"] == media_type
    assert app.asked[0].query == "num_samples=8&seed=0"


def test_a_proxy_given_as_an_argument_is_used(serve: Serve) -> None:
    proxy = ScriptedApp(A_SITE)
    with CoordinatorClient("http://coordinator.invalid", "s", proxy=serve(proxy), timeouts=QUICK) as client:
        assert client.sites.me().site_id == "sit_1"
    assert proxy.asked[0].headers["host"] == "coordinator.invalid"


def test_a_proxy_named_by_the_environment_is_used(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = ScriptedApp(A_SITE)
    monkeypatch.setenv("http_proxy", serve(proxy))
    with CoordinatorClient("http://coordinator.invalid", "s", timeouts=QUICK) as client:
        assert client.sites.me().site_id == "sit_1"


def test_a_certificate_file_that_is_missing_is_a_clear_error() -> None:
    with pytest.raises(TransportError, match="no certificates can be read from no-such"):
        CoordinatorClient("https://coordinator.invalid", "s", ca_file="no-such.pem")


@pytest.mark.parametrize("credential", ["two words", "a-line\n", "gänse"])
def test_a_credential_that_cannot_be_one_is_refused_without_being_shown(credential: str) -> None:
    with pytest.raises(TransportError, match="no token has") as caught:
        CoordinatorClient("http://localhost", credential)
    assert credential not in str(caught.value)


def test_an_unencrypted_address_beyond_this_machine_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    CoordinatorClient("http://coordinator.invalid", "s").close()
    CoordinatorClient("http://localhost", "s").close()
    assert [record.getMessage() for record in caplog.records] == [
        "the credential for coordinator.invalid travels unencrypted; use https://"
    ]


def test_an_evaluation_is_put_where_it_belongs(serve: Serve) -> None:
    app = ScriptedApp(problem(ProblemType.EVALUATION_CONFLICT))
    evaluation = Evaluation(num_examples=5, metrics={"accuracy": 0.5})
    with CoordinatorClient(serve(app), "s", timeouts=QUICK) as client, pytest.raises(ProblemError):
        client.model_versions.report_evaluation("letters", 3, "sit_1", evaluation)
    assert app.asked[0].path == "/v1/federations/letters/model-versions/3/evaluations/sit_1"
    assert Evaluation.model_validate_json(app.asked[0].body) == evaluation


def test_a_download_of_other_bytes_than_announced_is_refused(serve: Serve) -> None:
    from pfedbayespt.client.errors import IntegrityError

    app = ScriptedApp(Scripted(body=b"tampered"))
    with CoordinatorClient(serve(app), "s", timeouts=QUICK) as client:
        with pytest.raises(IntegrityError, match="nothing was kept"):
            client.model_versions.download("letters", 3, digest_of_bytes(b"original"))
        assert client.model_versions.download("letters", 3, digest_of_bytes(b"tampered")) == b"tampered"
