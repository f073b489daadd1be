"""The documentation that the server gives out."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.server.harness import running, settings_for

from pfedbayespt.protocol import PROBLEM_MEDIA_TYPE
from pfedbayespt.server import create_app


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return create_app(settings_for(tmp_path_factory.mktemp("openapi"))).openapi()


@pytest.fixture(scope="module")
def operations(document: Any) -> dict[str, Any]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def every_api_operation() -> Iterator[str]:
    """The table of the HTTP API."""
    federation, round_, version = "/v1/federations/{name}", "/v1/rounds/{round_id}", "model-versions/{number}"
    yield from (f"{method} /v1/federations" for method in ("POST", "GET"))
    yield from (f"POST {federation}/{verb}" for verb in ("activate", "pause", "resume", "archive"))
    yield from (f"POST {federation}/{what}" for what in ("enrolment-tokens", "rounds", "predictions"))
    yield f"POST {federation}/predictions/batch"
    yield from (f"GET {federation}/{what}" for what in ("sites", "rounds", "model-versions", "events"))
    yield from (f"POST /v1/sites/{{site_id}}/{verb}" for verb in ("suspend", "reinstate", "revoke"))
    yield from (f"GET {federation}/{version}{suffix}" for suffix in ("", "/parameters"))
    yield from (f"POST {round_}/{verb}" for verb in ("close", "abandon"))
    yield f"GET {federation}"
    yield f"GET {federation}/{version}/lineage"
    yield from (f"GET /v1/updates/{{update_id}}/{what}" for what in ("receipt", "parameters"))
    yield f"PUT {federation}/initial-parameters"
    yield "POST /v1/sites"
    yield "GET /.well-known/pfedbayespt-coordinator"
    yield "POST /v1/token"
    yield from (f"{method} /v1/sites/me/keys" for method in ("GET", "POST"))
    yield "POST /v1/sites/me/keys/{key_id}/retire"
    yield "GET /v1/sites/me"
    yield "GET /v1/sites/me/assignment"
    yield "POST /v1/sites/me/leave"
    yield f"GET {round_}"
    yield f"PUT {round_}/updates/{{site_id}}"
    yield f"GET {round_}/updates"
    yield "GET /v1/updates/{update_id}"
    yield f"PUT {federation}/{version}/evaluations/{{site_id}}"
    yield f"POST {federation}/{version}/promote"
    model, its_version = "/v2/models/{name}", "/v2/models/{name}/versions/{version}"
    yield from (f"GET /v2{what}" for what in ("", "/health/live", "/health/ready"))
    yield from (f"GET {which}{what}" for which in (model, its_version) for what in ("", "/ready"))
    yield from (f"POST {which}/infer" for which in (model, its_version))
    yield from (f"{method} {federation}/api-keys" for method in ("GET", "POST"))
    yield "POST /v1/api-keys/{api_key_id}/revoke"
    yield from (f"{method} /v1/organisations" for method in ("GET", "POST"))
    yield "GET /v1/organisations/{organisation}"
    yield f"GET {federation}/organisations"
    yield from (f"{method} {federation}/trials" for method in ("GET", "POST"))
    yield from (
        f"{verb} {federation}/trials/{{trial_id}}{what}" for verb, what in (("GET", ""), ("POST", "/stop"))
    )
    yield "DELETE /v1/feature-cache"
    yield "GET /livez"
    yield "GET /readyz"


REPEATABLE = {
    "PUT /v1/federations/{name}/initial-parameters",
    "PUT /v1/rounds/{round_id}/updates/{site_id}",
}


def test_the_operations_are_those_of_the_table(operations: dict[str, Any]) -> None:
    assert set(operations) == set(every_api_operation())


def test_every_operation_has_a_summary_a_description_a_tag_and_an_example(operations: dict[str, Any]) -> None:
    for name, operation in operations.items():
        assert operation["summary"], name
        assert operation["description"].strip().endswith("."), name
        assert len(operation["tags"]) == 1, name
        successes = [answer for status, answer in operation["responses"].items() if status < "3"]
        assert len(successes) == (2 if name in REPEATABLE else 1), name
        if not name.endswith("/parameters"):
            assert all("example" in answer["content"]["application/json"] for answer in successes), name


def test_tags_come_in_the_order_in_which_an_admin_works(document: Any, operations: dict[str, Any]) -> None:
    tags = [tag["name"] for tag in document["tags"]]
    assert tags[:3] == ["federations", "sites", "rounds"]
    assert {tag for operation in operations.values() for tag in operation["tags"]} == set(tags)


def test_every_documented_error_is_a_problem_document(operations: dict[str, Any]) -> None:
    for name, operation in operations.items():
        errors = {status: answer for status, answer in operation["responses"].items() if status >= "4"}
        assert errors, name
        for status, answer in errors.items():
            assert set(answer["content"]) == {PROBLEM_MEDIA_TYPE}, (name, status)
            for example in answer["content"][PROBLEM_MEDIA_TYPE]["examples"].values():
                assert example["value"]["status"] == int(status)


def test_authorize_works_everywhere_but_where_nobody_needs_it(
    document: Any, operations: dict[str, Any]
) -> None:
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    open_ones = {name for name, operation in operations.items() if not operation.get("security")}
    assert open_ones == {
        "POST /v1/sites",
        "POST /v1/token",
        "GET /.well-known/pfedbayespt-coordinator",
        "GET /v2",
        "GET /v2/health/live",
        "GET /v2/health/ready",
        "GET /livez",
        "GET /readyz",
    }


def test_the_documentation_can_be_switched_off(tmp_path: Any) -> None:
    with running(settings_for(tmp_path, public_docs=False)) as coordinator:
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert coordinator.http.get(path).status_code == 404
