"""Every example of the API's document is a message that the wire contract takes."""

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


def test_every_example_of_a_problem_is_a_problem(operations: dict[str, Any]) -> None:
    for name, operation in operations.items():
        for answer in operation["responses"].values():
            for example in answer.get("content", {}).get(PROBLEM_MEDIA_TYPE, {}).get("examples", {}).values():
                assert Problem.model_validate(example["value"]), name
