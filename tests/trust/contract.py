"""The live OpenAPI document against the coordinator it describes: schemathesis draws requests, and judges answers.

Half of the requests obey the document, half break it; each is sent by one of several callers, one of them nobody.
Where the document says no more than "an id", the path mostly names something there: else all is `not_found`.
"""

import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis.errors import NonInteractiveExampleWarning, Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.server.test_authorisation import World

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
CALLERS = (
    "nobody",
    "admin",
    "admin",
    "admin",
    "own site",
    "federation lead",
    "organisation admin",
    "predictor",
    "expired token",
)
_PARTS = ("method", "url", "headers", "params", "json", "data", "files", "cookies")
_MAX_URL_CHARACTERS = 60_000  # the client under the tests sends no longer ones
_MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@dataclass(frozen=True)
class Answer:
    """What came of one request; `complaint` says how it breaks the document, None: it does not."""

    operation: str
    caller: str
    status: int
    complaint: str | None


def live_document(world: World) -> dict[str, Any]:
    """Return the document that the coordinator gives out."""
    document: dict[str, Any] = world.coordinator.admin.get("/openapi.json")
    return document


def answers(world: World, document: dict[str, Any], per_operation: int) -> Iterator[Answer]:
    """Yield the answers to so many requests to each operation of a document, each judged by it."""
    for media_type in ("application/vnd.safetensors", "image/jpeg", "image/png", "image/webp"):
        schemathesis.serializer.alias(media_type, "application/octet-stream")
    schema = schemathesis.openapi.from_dict(document)
    for result in schema.get_all_operations():
        operation = result.ok()
        for mode in _MODES:
            yield from _of_operation(world, operation, mode, per_operation // len(_MODES))


def _of_operation(world: World, operation: Any, mode: GenerationMode, number: int) -> list[Answer]:
    collected: list[Answer] = []
    name = f"{operation.method.upper()} {operation.path}"
    draw = random.Random(name + mode.value)  # not hypothesis's: it prefers the first choices

    @seed(0)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Case) -> None:
        collected.append(_sent(world, name, case, draw))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonInteractiveExampleWarning)
        try:
            send()
        except Unsatisfiable:  # whoever asks for nothing can break no rule
            if mode is GenerationMode.POSITIVE:
                raise
    return collected


def _sent(world: World, name: str, case: Case, draw: random.Random) -> Answer:
    caller = draw.choice(CALLERS)
    if case.path_parameters and draw.random() < 0.8:
        places = draw.choice(world.targets).live
        known = {key: places.get(key, value) for key, value in case.path_parameters.items()}
        case.path_parameters = known
    kwargs = case.as_transport_kwargs(base_url="http://testserver")
    kwargs["headers"] = {
        key: value for key, value in kwargs["headers"].items() if key.lower() != "authorization"
    }
    asked = requests.Request(**{key: value for key, value in kwargs.items() if key in _PARTS}).prepare()
    assume(len(str(asked.url)) < _MAX_URL_CHARACTERS)
    response = world.callers[caller].request(
        str(asked.method),
        str(asked.url),
        content=asked.body.encode() if isinstance(asked.body, str) else asked.body,
        headers={key: _encoded(value) for key, value in asked.headers.items()},
    )
    return Answer(name, caller, response.status_code, _complaint(case, response))


def _encoded(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


def _complaint(case: Case, response: Any) -> str | None:
    try:
        case.validate_response(response, checks=CHECKS)
    except (AssertionError, BaseExceptionGroup) as error:
        problems = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
        return f"{case.as_curl_command()}: {[str(problem)[:1500] for problem in problems]}"
    return None
