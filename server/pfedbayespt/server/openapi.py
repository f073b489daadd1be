"""How operations are documented: a summary, what was asked and answered once, and every problem there may be.

Requests and answers are those of a small federation that `scripts/record_examples.py` played; `make examples` plays
it again.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

from pfedbayespt.protocol import PROBLEM_MEDIA_TYPE, Message, Problem, ProblemType
from pfedbayespt.server.media_types import TENSOR_MEDIA_TYPE

TAGS: Final = [
    {"name": "federations", "description": "First: create a federation, give it parameters, activate it."},
    {"name": "sites", "description": "Then each organisation's site enrols and asks what to do."},
    {"name": "rounds", "description": "Rounds collect updates until their deadline and lead to a model version."},
    {"name": "updates", "description": "What sites submit in a round."},
    {"name": "model versions", "description": "Immutable results of rounds: download, evaluate, roll back."},
    {"name": "predictions", "description": "Answers for images, with honest doubt."},
    {"name": "open inference protocol", "description": "The same answers by the Open Inference Protocol V2."},
    {"name": "events", "description": "What happened, in order."},
    {"name": "organisations", "description": "Who takes part, and what each organisation sees of itself."},
    {"name": "keys", "description": "Who is who: the coordinator's key, a site's keys, access tokens."},
    {"name": "health", "description": "For whoever runs the coordinator."},
]  # fmt: skip

RECORDING: Final = Path(__file__).with_name("recorded_examples.json")
SERVERS: Final = [{"url": "/", "description": "This coordinator."}]
CONTACT: Final = {"name": "Whoever runs this coordinator"}
LICENCE: Final = {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}

_JSON: Final = "application/json"
_FORM: Final = "application/x-www-form-urlencoded"

_ALWAYS = (
    ProblemType.INVALID_REQUEST,
    ProblemType.PROTOCOL_MISMATCH,
    ProblemType.OVERLOADED,
    ProblemType.INTERNAL_ERROR,
)
_GUARDED = (ProblemType.AUTHENTICATION_REQUIRED, ProblemType.PERMISSION_DENIED)


def documented(
    summary: str,
    *problems: ProblemType,
    status: int = 200,
    repeatable: type[Message] | None = None,
    guarded: bool = True,
) -> dict[str, Any]:
    """Return the keyword arguments of a route decorator that document the operation.

    `problems` are those that are special to it; those of every operation are added. `repeatable` is what the same
    request again is answered with, and 200.
    """
    every = (*(_GUARDED if guarded else ()), *problems, *_ALWAYS)
    responses: dict[int | str, dict[str, Any]] = problem_responses(every)
    if repeatable is not None:
        responses[200] = {"description": "The same as before: it was there already", "model": repeatable}
    return {"summary": summary, "status_code": status, "responses": responses}


def schema_of(body: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a body that a route reads itself, whole: no reference leads out of it."""
    schema = body.model_json_schema()
    parts = schema.pop("$defs", {})

    def whole(node: Any) -> Any:
        if isinstance(node, list):
            return [whole(each) for each in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return whole(parts[node["$ref"].rpartition("/")[2]])
        return {key: whole(value) for key, value in node.items()}

    return {key: whole(value) for key, value in schema.items()}


def problem_responses(problems: Iterable[ProblemType]) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI responses for `problems`, one per HTTP status, with an example for each kind."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in dict.fromkeys(problems):
        response = responses.setdefault(
            problem.status,
            {"description": problem.title, "content": {PROBLEM_MEDIA_TYPE: {"examples": {}}}},
        )
        examples = response["content"][PROBLEM_MEDIA_TYPE]["examples"]
        examples[problem.name.lower()] = {"summary": problem.title, "value": _example_of(problem)}
        response["description"] = "; or: ".join(example["summary"] for example in examples.values())
    return responses


def show_recorded_examples(app: FastAPI) -> None:
    """Have the document show what was really asked and answered once."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = generate()
        if is_new and RECORDING.exists():
            _show(json.loads(RECORDING.read_text(encoding="utf-8")), document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _show(recording: dict[str, Any], document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            recorded = recording.get(f"{method.upper()} {path}", {"answers": {}})
            for status, answer in recorded["answers"].items():
                operation["responses"][status]["content"][_JSON]["example"] = answer
            for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
                if media_type in {_JSON, _FORM} and "request" in recorded:
                    content["example"] = recorded["request"]


def tensor_body(message: str) -> dict[str, Any]:
    """Return the OpenAPI extra of an operation whose body is a safetensors file."""
    return {
        "requestBody": {
            "required": True,
            "description": message,
            "content": {TENSOR_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        }
    }


def _example_of(problem: ProblemType) -> dict[str, Any]:
    document = Problem(
        type=problem.urn,
        title=problem.title,
        status=problem.status,
        detail="What was wrong with this request, and what is allowed.",
        instance="req_5f2c1f0e9d3b4a7c8e6f0a1b2c3d4e5f",
    )
    return document.model_dump(mode="json")
