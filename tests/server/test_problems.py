"""Errors: one tree, one list of kinds, one form on the wire, and nothing leaks."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError
from tests.server.harness import ADMIN_TOKEN, Coordinator, problem_of, settings_for, specification

from pfedbayespt.protocol import Problem, ProblemType
from pfedbayespt.server import create_app, errors
from pfedbayespt.server.errors import CoordinatorError, LostRace, TransitionNotAllowed
from pfedbayespt.server.updates.ingest import RejectionReason


def camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def test_the_exception_tree_and_the_kinds_of_problem_are_the_same_set() -> None:
    classes = {kind.__name__: kind.problem for kind in CoordinatorError.__subclasses__()}
    assert classes == {camel_case(kind.name): kind for kind in ProblemType}


def test_the_tree_drawn_in_the_docstring_names_every_class() -> None:
    drawn = set(re.findall(r"[├└]── (\w+)", errors.__doc__ or ""))
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert drawn == {name for name in defined if issubclass(getattr(errors, name), CoordinatorError)} - {
        "CoordinatorError"
    }
    assert LostRace.problem is TransitionNotAllowed.problem


def test_the_page_of_problems_explains_every_kind_and_every_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "problems.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", page, re.M)
    assert rows == [(kind.name.lower(), str(kind.status)) for kind in ProblemType]
    reasons = page.split("Reasons of")[1]
    assert set(re.findall(r"`(\w+)`", reasons)) - {"update_rejected"} == set(RejectionReason)


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = create_app(settings_for(tmp_path_factory.mktemp("problems")))

    @app.get("/crash")
    def crash() -> None:
        raise RuntimeError("the hidden cause")

    @app.get("/full")
    def full() -> None:
        raise OSError(28, "No space left on device", "/hidden/path")

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/nowhere", "not_found"),
        ("DELETE", "/livez", "method_not_allowed"),
        ("GET", "/crash", "internal_error"),
        ("GET", "/full", "storage_exhausted"),
        ("GET", "/v1/federations", "authentication_required"),
    ],
)
def test_every_error_is_a_problem_document_with_a_request_id(
    http: TestClient, method: str, path: str, kind: str
) -> None:
    response = http.request(method, path)
    assert problem_of(response) == kind
    document = Problem.model_validate(response.json())
    assert document.status == response.status_code
    assert document.title == ProblemType.from_urn(document.type).title  # type: ignore[union-attr]
    assert "hidden" not in response.text


def test_a_refused_method_says_which_are_allowed(http: TestClient) -> None:
    assert "GET" in http.delete("/livez").headers["allow"]


def test_missing_credentials_are_asked_for(http: TestClient) -> None:
    assert http.get("/v1/federations").headers["www-authenticate"] == "Bearer"


def test_a_plain_request_id_is_kept_and_another_replaced(http: TestClient) -> None:
    assert http.get("/livez", headers={"X-Request-Id": "trace-1"}).headers["x-request-id"] == "trace-1"
    assert http.get("/livez", headers={"X-Request-Id": "a b\t"}).headers["x-request-id"].startswith("req_")


def test_a_request_that_is_not_of_the_documented_form_is_told_where(coordinator: Coordinator) -> None:
    response = coordinator.admin.request(
        "POST", "/v1/federations", json={"name": "No Good", "specification": {}, "colour": "red"}
    )
    assert problem_of(response) == "invalid_request"
    places = {fault["where"] for fault in response.json()["errors"]}
    assert {"body.name", "body.specification.classes", "body.specification.backbone", "body.colour"} <= places


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"name": 1e999}'])
def test_a_body_that_is_not_json_is_an_invalid_request(coordinator: Coordinator, body: bytes) -> None:
    response = coordinator.admin.request(
        "POST", "/v1/federations", content=body, headers={"Content-Type": "application/json"}
    )
    assert problem_of(response) == "invalid_request"


def test_a_database_that_is_locked_for_too_long_is_an_overload(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise OperationalError("SELECT hidden", {}, Exception("database is locked"))

    monkeypatch.setattr("pfedbayespt.server.federations.service.create", locked)
    response = coordinator.admin.request(
        "POST",
        "/v1/federations",
        json={"name": "beta", "specification": specification().model_dump(mode="json")},
    )
    assert problem_of(response) == "overloaded"
    assert int(response.headers["retry-after"]) >= 1
    assert "hidden" not in response.text


def test_neither_the_answers_nor_the_log_hold_a_credential(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    app = create_app(settings_for(tmp_path))

    @app.get("/crash")
    def crash(token: str) -> None:
        local = token
        raise RuntimeError(f"cause {len(local)}")

    with TestClient(app, raise_server_exceptions=False) as client:
        client.get("/crash?token=query-secret", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        client.get("/v1/federations", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("pfedbayespt")]
    written = "".join([*ours, *capsys.readouterr()])
    assert "request_crashed" in written
    assert ADMIN_TOKEN not in written
    assert "query-secret" not in written
