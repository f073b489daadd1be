"""How operations are documented: a summary, an example of the answer, and every problem it may have.

Examples are real messages, built and checked by the wire contract itself.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
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

SERVERS: Final = [{"url": "/", "description": "This coordinator."}]
CONTACT: Final = {"name": "Whoever runs this coordinator"}
LICENCE: Final = {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}

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
    asks: Message | None = None,
    example: Message | None = None,
    status: int = 200,
    repeatable: bool = False,
    guarded: bool = True,
) -> dict[str, Any]:
    """Return the keyword arguments of a route decorator that document the operation.

    `problems` are those that are special to it; those of every operation are added. `asks` and `example` are a
    request's body and its answer. `repeatable`: the same request again is answered with 200 and the same content.
    """
    every = (*(_GUARDED if guarded else ()), *problems, *_ALWAYS)
    responses: dict[int | str, dict[str, Any]] = problem_responses(every)
    if example is not None:
        answer = {"content": {"application/json": {"example": example.model_dump(mode="json")}}}
        responses[status] = answer
        if repeatable:
            responses[200] = {"description": "The same as before: it was there already", **answer}
    operation = {"summary": summary, "status_code": status, "responses": responses}
    return operation if asks is None else operation | {"openapi_extra": asking(asks)}


def asking(body: Message, media_type: str = "application/json") -> dict[str, Any]:
    """Return the OpenAPI extra that shows an example of the body."""
    return {"requestBody": {"content": {media_type: {"example": sent(body)}}}}


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


def sent(body: Message) -> dict[str, Any]:
    """Return a request as callers send it: what may be left out is left out where it says nothing."""
    return body.model_dump(mode="json", exclude_none=True)


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


def keep_nulls_in_examples(app: FastAPI, routers: Sequence[APIRouter]) -> None:
    """Have the document show examples as they are sent: FastAPI drops every null, also those that must be there."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        document = generate()
        for route in (route for router in routers for route in router.routes) if is_new else ():
            if isinstance(route, APIRoute) and route.include_in_schema:
                _put_back(document, route)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _put_back(document: dict[str, Any], route: APIRoute) -> None:
    for method in route.methods or ():
        shown = document["paths"][route.path_format][method.lower()]["responses"]
        for status, response in route.responses.items():
            for media_type, content in response.get("content", {}).items():
                if "example" in content:
                    shown[str(status)]["content"][media_type]["example"] = content["example"]


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
