"""What a database could choke on never reaches it, on either of the two."""

from urllib.parse import quote

import pytest
from tests.server.harness import Coordinator, problem_of
from tests.server.test_federations import cursor_of

from pfedbayespt.protocol import SigningKey

HOSTILE = ["\0", "a\0b", "é", "a" * 1000, "'; DROP TABLE events; --", "..", "%", "\U0001f600"]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_names_and_ids_are_problems_of_the_caller(coordinator: Coordinator, text: str) -> None:
    word = quote(text, safe="")
    for method, path in (
        ("GET", f"/v1/federations/{word}"),
        ("POST", f"/v1/federations/{word}/activate"),
        ("POST", f"/v1/federations/{word}/predictions"),
        ("GET", f"/v1/federations/{word}/events"),
        ("GET", f"/v1/rounds/{word}"),
        ("GET", f"/v1/updates/{word}"),
        ("POST", f"/v1/sites/{word}/suspend"),
        ("PUT", f"/v1/rounds/rnd_0/updates/{word}"),
    ):
        response = coordinator.admin.request(method, path)
        assert 400 <= response.status_code < 500, (path, response.text)
        problem_of(response)


def test_class_names_may_be_any_text(coordinator: Coordinator) -> None:
    name = coordinator.draft()
    federation = coordinator.admin.get(f"/v1/federations/{name}")
    specification = federation["specification"] | {"classes": ["nul \0", "snow ☃", "\U0001f600", "'; --"]}
    body = {"name": "beta", "specification": specification}
    created = coordinator.admin.post("/v1/federations", body, status=201)
    assert created["specification"]["classes"] == specification["classes"]
    assert coordinator.admin.get("/v1/federations/beta") == created


def test_an_enrolment_token_may_be_any_text_and_is_refused(coordinator: Coordinator) -> None:
    for token in ("\0", "enr_\0", "é" * 1000):
        body = coordinator.enrolment(token, "site-1", SigningKey.generate())
        response = coordinator.anonymous().request("POST", "/v1/sites", json=body)
        assert problem_of(response) == "enrolment_token_refused"


@pytest.mark.parametrize("key", [("2026-01-01T00:00:00+00:00", "a\0b"), (2**63, "x"), ("9999", "x")])
def test_a_forged_cursor_is_refused(coordinator: Coordinator, key: tuple[object, ...]) -> None:
    response = coordinator.admin.request("GET", f"/v1/federations?cursor={cursor_of(*key)}")
    assert problem_of(response) == "invalid_request"


@pytest.mark.parametrize("number", [2**63 - 1, 0])
def test_a_cursor_beyond_the_end_gives_an_empty_or_a_whole_page(
    coordinator: Coordinator, number: int
) -> None:
    coordinator.draft()
    page = coordinator.admin.get(f"/v1/federations/alpha/events?cursor={cursor_of(number)}")
    assert len(page["items"]) == (1 if number == 0 else 0)
