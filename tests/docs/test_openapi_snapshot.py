"""docs/openapi.json says what the code does, and the check for breaking changes finds each kind of them."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scripts.openapi import SNAPSHOT, breaking_changes, document, text_of

Json = dict[str, Any]
ROUND = "/v1/rounds/{round_id}"


@pytest.fixture(scope="module")
def current() -> Json:
    return document()


def test_the_snapshot_is_what_the_code_gives_out(current: Json) -> None:
    recorded = json.loads(SNAPSHOT.read_text())
    hint = "run `make openapi` and commit docs/openapi.json"
    missing, stale = (
        {f"{method} {path}" for path, methods in one["paths"].items() for method in methods}
        - {f"{method} {path}" for path, methods in other["paths"].items() for method in methods}
        for one, other in ((current, recorded), (recorded, current))
    )
    assert not missing, f"not in the snapshot: {missing}; {hint}"
    assert not stale, f"only in the snapshot: {stale}; {hint}"
    assert text_of(recorded) == text_of(current), hint


def test_nothing_breaks_from_a_document_to_itself(current: Json) -> None:
    assert breaking_changes(current, current) == []


def drop_operation(new: Json) -> None:
    del new["paths"][ROUND]["get"]


def drop_answer(new: Json) -> None:
    responses = new["paths"][f"{ROUND}/close"]["post"]["responses"]
    responses["202"] = responses.pop("200")


def drop_parameter(new: Json) -> None:
    new["paths"]["/v1/federations"]["get"]["parameters"].pop()


def require_parameter(new: Json) -> None:
    new["paths"][ROUND]["get"]["parameters"].append({"in": "query", "name": "why", "required": True})


def drop_field(new: Json) -> None:
    del new["components"]["schemas"]["Round"]["properties"]["quorum"]


def require_field(new: Json) -> None:
    new["components"]["schemas"]["EnrolmentTokenCreate"]["required"].append("valid_seconds")


def drop_value(new: Json) -> None:
    new["components"]["schemas"]["RoundStatus"]["enum"].remove("held")


def change_type(new: Json) -> None:
    new["components"]["schemas"]["Round"]["properties"]["quorum"]["type"] = "string"


def drop_message(new: Json) -> None:
    del new["components"]["schemas"]["Round"]


BREAKING = (
    drop_operation,
    drop_answer,
    drop_parameter,
    require_parameter,
    drop_field,
    require_field,
    drop_value,
    change_type,
    drop_message,
)


@pytest.mark.parametrize("change", BREAKING, ids=lambda change: change.__name__)
def test_each_kind_of_breaking_change_is_found(current: Json, change: Callable[[Json], None]) -> None:
    new = copy.deepcopy(current)
    change(new)
    assert len(breaking_changes(current, new)) == 1


def test_what_only_adds_breaks_nothing(current: Json) -> None:
    new = copy.deepcopy(current)
    new["paths"]["/v1/new"] = {"get": {"responses": {"200": {}}}}
    new["components"]["schemas"]["Round"]["properties"]["mood"] = {"type": "string"}
    new["components"]["schemas"]["Round"]["required"].append("mood")
    new["paths"][ROUND]["get"]["parameters"].append({"in": "query", "name": "why", "required": False})
    assert breaking_changes(current, new) == []


def operations(content: Json) -> Iterator[tuple[str, Json]]:
    for path, methods in content["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_the_document_keeps_one_style(current: Json) -> None:
    tags = {tag["name"] for tag in current["tags"]}
    identifiers = [operation["operationId"] for _, operation in operations(current)]
    assert len(set(identifiers)) == len(identifiers)
    for name, operation in operations(current):
        summary = operation["summary"]
        assert 5 <= len(summary) <= 60, name
        assert summary[0].isupper(), name
        assert not summary.endswith("."), name
        assert set(operation["tags"]) <= tags, name
        assert not re.search(r"//|/$", name), name
        for parameter in operation.get("parameters", ()):
            known = parameter.get("description") or parameter["schema"].get("description")
            assert known or parameter["schema"].get("title"), (name, parameter["name"])
            if parameter["in"] in {"query", "path"}:
                assert re.fullmatch(r"[a-z][a-z0-9_]*", parameter["name"]), (name, parameter["name"])
