"""The examples of the API's document: whole, true to schemas and messages, and what the code still answers."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from pydantic import TypeAdapter
from scripts.openapi import document
from scripts.record_examples import record

from pfedbayespt import protocol
from pfedbayespt.protocol import PROBLEM_MEDIA_TYPE, Message, Page, Problem
from pfedbayespt.server.openapi import RECORDING

Json = dict[str, Any]
TEXT = {"application/json", "application/x-www-form-urlencoded"}
FILES = {
    "GET /v1/federations/{name}/model-versions/{number}/parameters",
    "GET /v1/updates/{update_id}/parameters",
}


@pytest.fixture(scope="module")
def current() -> Json:
    return document()


@pytest.fixture(scope="module")
def operations(current: Json) -> Json:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in current["paths"].items()
        for method, operation in methods.items()
    }


def contents(operation: Json) -> Iterator[tuple[str, Json]]:
    """What an operation takes and gives as text, each with a word that tells which it is."""
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        if media_type in TEXT:
            yield "request", content
    for status, answer in operation["responses"].items():
        if status < "3" and "application/json" in answer.get("content", {}):
            yield status, answer["content"]["application/json"]


def message_named(name: str) -> Any:
    """The type of the wire contract that a schema was made from, None if it is the server's own."""
    if name.startswith("Page_"):
        return Page[message_named(name.removeprefix("Page_").removesuffix("_"))]
    found = getattr(protocol, name, None)
    return found if isinstance(found, type) and issubclass(found, Message) else None


def test_every_operation_has_examples_and_documented_problems(operations: Json) -> None:
    assert len(operations) >= 64
    for name, operation in operations.items():
        shown = list(contents(operation))
        assert shown or name in FILES, name
        for which, content in shown:
            assert "example" in content, f"{name} has no example of its {which}: run `make examples`"
        problems = [answer for status, answer in operation["responses"].items() if status >= "4"]
        assert problems, name
        for answer in problems:
            assert answer["content"][PROBLEM_MEDIA_TYPE]["examples"], name


def test_every_example_is_valid_by_its_schema(current: Json, operations: Json) -> None:
    for name, operation in operations.items():
        for which, content in contents(operation):
            schema = {**content["schema"], "components": current["components"]}
            faults = [
                str(fault)
                for fault in jsonschema_rs.Draft202012Validator(schema).iter_errors(content["example"])
            ]
            assert not faults, (name, which, faults)


def test_every_example_is_taken_by_its_message(operations: Json) -> None:
    checked = 0
    for name, operation in operations.items():
        for which, content in contents(operation):
            schema = content["schema"]
            message = message_named(schema.get("title") or schema.get("$ref", "").rpartition("/")[2])
            if message is None:
                assert re.search(r"/v2|/livez|/readyz", name), (name, which)
                continue
            parsed = TypeAdapter(message).validate_json(json.dumps(content["example"]))
            if which != "request":
                again = TypeAdapter(message).dump_python(parsed, mode="json")
                assert again == content["example"], (name, which)
            checked += 1
    assert checked >= 60


def test_every_example_of_a_problem_is_a_problem(operations: Json) -> None:
    for name, operation in operations.items():
        for answer in operation["responses"].values():
            for example in answer.get("content", {}).get(PROBLEM_MEDIA_TYPE, {}).get("examples", {}).values():
                assert Problem.model_validate(example["value"]), name


def test_no_example_holds_a_secret() -> None:
    text = RECORDING.read_text()
    assert not re.search(r"eyJ|fp_live_[0-9a-f]{16}_|enr_[\w-]{43}|[\w-]{20,}\.[\w-]{20,}\.[\w-]{20,}", text)
    assert text.count("-COMES-HERE") == 5


def shape(value: Any) -> Any:
    """Return what a JSON value is made of: the kinds of its parts, whatever they are and however many."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(part), sort_keys=True) for part in value})
    return "number" if type(value) in {int, float} else type(value).__name__


def test_the_same_run_is_still_answered_in_the_same_shape() -> None:
    recorded = json.loads(RECORDING.read_text())
    replayed = record()
    hint = "run `make examples` and `make openapi`"
    assert set(replayed) == set(recorded), hint
    for name, entry in recorded.items():
        assert shape(replayed[name]) == shape(entry), f"{name}: {hint}"
