"""Every example of the API's document is a message that the wire contract takes."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter
from scripts.openapi import document

from pfedbayespt import protocol
from pfedbayespt.protocol import PROBLEM_MEDIA_TYPE, Message, Page, Problem


@pytest.fixture(scope="module")
def operations() -> dict[str, Any]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document()["paths"].items()
        for method, operation in methods.items()
    }


def message_named(name: str) -> Any:
    """The type of the wire contract that a schema was made from, None if it is the server's own."""
    if name.startswith("Page_"):
        return Page[message_named(name.removeprefix("Page_").removesuffix("_"))]
    found = getattr(protocol, name, None)
    return found if isinstance(found, type) and issubclass(found, Message) else None


def test_every_example_of_an_answer_is_taken_by_its_message(operations: dict[str, Any]) -> None:
    checked = 0
    for name, operation in operations.items():
        for status, answer in operation["responses"].items():
            content = answer.get("content", {}).get("application/json", {})
            schema = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
            if status < "3" and "example" in content and (message := message_named(schema)) is not None:
                parsed = TypeAdapter(message).validate_python(content["example"], strict=False)
                again = TypeAdapter(message).dump_python(parsed, mode="json")
                assert again == content["example"], (name, status)
                checked += 1
    assert checked >= 30


TAKES_NO_JSON = {"application/octet-stream", "image/jpeg", "image/png", "image/webp", "multipart/form-data"}


def test_every_request_has_an_example_that_its_message_takes(operations: dict[str, Any]) -> None:
    checked = 0
    for name, operation in operations.items():
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            if media_type in TAKES_NO_JSON or media_type.endswith("safetensors"):
                continue
            assert "example" in content, f"{name} needs an example: say `asks=` in documented()"
            schema = content["schema"]
            message = message_named(schema.get("title") or schema.get("$ref", "").rpartition("/")[2])
            if message is None:
                assert name.endswith("/infer"), name  # the Open Inference Protocol's own
                continue
            parsed = message.model_validate_json(json.dumps(content["example"]))
            assert parsed.model_dump(mode="json", exclude_none=True) == content["example"], name
            checked += 1
    assert checked == 13


def test_every_example_of_a_problem_is_a_problem(operations: dict[str, Any]) -> None:
    for name, operation in operations.items():
        for answer in operation["responses"].values():
            for example in answer.get("content", {}).get(PROBLEM_MEDIA_TYPE, {}).get("examples", {}).values():
                assert Problem.model_validate(example["value"]), name
