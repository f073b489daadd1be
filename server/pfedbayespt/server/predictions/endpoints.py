"""The HTTP operation of predictions."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from pfedbayespt.protocol import (
    BatchItem,
    BatchRequest,
    Prediction,
    PredictionBatch,
    PredictionOptions,
    PredictionRequest,
    ProblemType,
)
from pfedbayespt.server import problems
from pfedbayespt.server.auth import Caller, Predicting
from pfedbayespt.server.errors import BodyTooLarge, CoordinatorError
from pfedbayespt.server.openapi import documented, schema_of
from pfedbayespt.server.paths import FederationName
from pfedbayespt.server.predictions import trying
from pfedbayespt.server.predictions.admission import Admission, Ticket
from pfedbayespt.server.predictions.admission import Caller as Waiting
from pfedbayespt.server.predictions.forms import (
    FORM_TYPE,
    IMAGE_PART,
    IMAGE_TYPES,
    JSON_TYPE,
    read_batch,
    read_request,
)
from pfedbayespt.server.predictions.predictor import Answer, Asker, Predictor, ServableVersion
from pfedbayespt.server.predictions.service import Versions
from pfedbayespt.server.trials.tallies import Tallies

router = APIRouter(prefix="/v1/federations/{name}/predictions", tags=["predictions"])

_FILE: Final = {"type": "string", "format": "binary"}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "One JPEG, PNG or WEBP file: as it is, as a form's part, or as base64 in JSON.",
        "content": {
            **{media_type: {"schema": _FILE} for media_type in IMAGE_TYPES},
            FORM_TYPE: {
                "schema": {"type": "object", "required": [IMAGE_PART], "properties": {IMAGE_PART: _FILE}}
            },
            JSON_TYPE: {"schema": schema_of(PredictionRequest)},
        },
    }
}


_BATCH_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "Several JPEG, PNG or WEBP files: as a form's parts, or as base64 in JSON.",
        "content": {
            FORM_TYPE: {
                "schema": {
                    "type": "object",
                    "required": [IMAGE_PART],
                    "properties": {IMAGE_PART: {"type": "array", "items": _FILE}},
                }
            },
            JSON_TYPE: {"schema": schema_of(BatchRequest)},
        },
    }
}


@dataclass(frozen=True)
class Predictions:
    """What computes predictions in this process, and how many at once; `app.state.predictions` holds it."""

    versions: Versions
    predictor: Predictor
    admission: Admission
    max_image_bytes: int
    max_batch_images: int = 32
    tallies: Tallies = field(default_factory=Tallies)

    @cached_property
    def comparisons(self) -> trying.Comparisons:
        """What computes with a version on trial beside the one that serves."""
        return trying.Comparisons(self.predictor, self.admission, self.tallies)


async def _predictions_of(request: Request) -> Predictions:
    predictions: Predictions = request.app.state.predictions
    return predictions


PredictionsDep = Annotated[Predictions, Depends(_predictions_of)]
TimeoutHeader = Annotated[
    float | None,
    Header(
        alias="X-Timeout-Seconds",
        gt=0,
        le=3600,
        description="How long the caller waits for the answer: afterwards nothing is computed for it any more.",
    ),
]
StickyHeader = Annotated[
    str | None,
    Header(
        alias="X-Sticky-Key",
        max_length=200,
        description="While a version is on trial: requests with the same key are answered by the same version.",
    ),
]


@router.post(
    "",
    response_model=Prediction,
    **documented(
        "Classify an image",
        ProblemType.NOT_FOUND,
        ProblemType.NO_SERVING_VERSION,
        ProblemType.IMAGE_REJECTED,
        ProblemType.UNSUPPORTED_MEDIA_TYPE,
        ProblemType.BODY_TOO_LARGE,
        ProblemType.BODY_TIMEOUT,
        ProblemType.QUOTA_EXCEEDED,
        ProblemType.OVERLOADED,
        ProblemType.INFERENCE_UNAVAILABLE,
    ),
    openapi_extra=_BODY,
)
async def predict(
    name: FederationName,
    request: Request,
    predictions: PredictionsDep,
    caller: Predicting,
    options: Annotated[PredictionOptions, Query()],
    timeout: TimeoutHeader = None,
    sticky_key: StickyHeader = None,
) -> Response:
    """Classify one image with the version that serves, or with the one asked for.

    Options are query parameters, but fields of the body in the JSON form. The same request is answered with the
    same bytes; how long its steps took is in the header `Server-Timing`, in milliseconds. Images are neither kept
    nor logged. While a version is on trial, it may be the one that answers: the answer says so.
    """
    begun = time.monotonic()
    with predictions.admission.admitted(caller.actor):
        await run_in_threadpool(_check_answerable, predictions, caller, name)
        asked = await read_request(request, options, predictions.max_image_bytes)
        done = await predictions.admission.run(
            partial(_answer, predictions, caller, name, asked, sticky_key),
            waiting(request, timeout, begun),
        )
    answer, serving = done.result
    predictions.comparisons.offer(serving, asked, answer, asker_of(caller))
    return Response(
        _cut(answer.prediction, asked.top_k).model_dump_json(),
        media_type=JSON_TYPE,
        headers={"Server-Timing": _server_timing({"queue": done.queue_seconds, **answer.seconds})},
    )


@router.post(
    "/batch",
    response_model=PredictionBatch,
    **documented(
        "Classify several images",
        ProblemType.NOT_FOUND,
        ProblemType.NO_SERVING_VERSION,
        ProblemType.UNSUPPORTED_MEDIA_TYPE,
        ProblemType.BODY_TOO_LARGE,
        ProblemType.BODY_TIMEOUT,
        ProblemType.QUOTA_EXCEEDED,
        ProblemType.OVERLOADED,
        ProblemType.INFERENCE_UNAVAILABLE,
    ),
    openapi_extra=_BATCH_BODY,
)
async def predict_batch(
    name: FederationName,
    request: Request,
    predictions: PredictionsDep,
    caller: Predicting,
    options: Annotated[PredictionOptions, Query()],
    timeout: TimeoutHeader = None,
    sticky_key: StickyHeader = None,
) -> Response:
    """Classify several images with one version and the same options; each is answered, or refused, by itself.

    The batch takes one turn in the queue, and its images are computed one after the other. An image's answer is the
    same as if it had been sent alone.
    """
    begun = time.monotonic()
    with predictions.admission.admitted(caller.actor):
        await run_in_threadpool(_check_answerable, predictions, caller, name)
        asked = await read_batch(request, options, predictions.max_batch_images)
        done = await predictions.admission.run(
            partial(
                _Batch(caller, name, asked, request.scope.get("request_id"), sticky_key).run, predictions
            ),
            waiting(request, timeout, begun),
        )
    items = PredictionBatch(items=tuple(done.result)).model_dump_json()
    return Response(
        items, media_type=JSON_TYPE, headers={"Server-Timing": _server_timing({"queue": done.queue_seconds})}
    )


def _check_answerable(predictions: Predictions, caller: Caller, name: str) -> None:
    """Refuse before the body is read what cannot be answered whatever it holds."""
    predictions.versions.check_visible(caller, name)
    predictions.predictor.check_available()


def asker_of(caller: Caller) -> Asker:
    """Return whom the caller's answers are for; one of no organisation is a tenant of its own."""
    return Asker(caller.site_id, caller.organisation or caller.actor)


def waiting(request: Request, timeout: float | None, begun: float) -> Waiting:
    """Return who waits for the answer to `request`, which was begun at that time of the monotonic clock."""
    patience = None if timeout is None else timeout - (time.monotonic() - begun)
    return Waiting(partial(_until_gone, request), patience)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(
    predictions: Predictions,
    caller: Caller,
    name: str,
    asked: PredictionRequest,
    sticky_key: str | None,
    ticket: Ticket,  # noqa: ARG001 - one image is one step
) -> tuple[Answer, ServableVersion]:
    """Return the answer, with all classes if a version is on trial, and the version that serves."""
    serving = predictions.versions.to_answer(caller, name, asked.model_version)
    if serving.trial is not None:
        asked = asked.model_copy(update={"top_k": None})  # whole distributions are compared

    def compute(version: ServableVersion) -> Answer:
        return predictions.predictor.predict(version, pinned(asked, version, serving), asker_of(caller))

    decisive = trying.Asked(caller.actor, asked.image, sticky_key)
    return trying.answer(predictions.tallies, serving, decisive, compute)[0], serving


def pinned(asked: PredictionRequest, version: ServableVersion, serving: ServableVersion) -> PredictionRequest:
    """Return the request as `version` is to answer it: one on trial answers itself, or not at all."""
    return asked if version is serving else asked.model_copy(update={"model_version": version.number})


def _cut(prediction: Prediction, top_k: int | None) -> Prediction:
    if top_k is None or len(prediction.probabilities) <= top_k:
        return prediction
    return prediction.model_copy(update={"probabilities": prediction.probabilities[:top_k]})


@dataclass(frozen=True)
class _Batch:
    """Several images with the same options, from one caller."""

    caller: Caller
    name: str
    requests: Sequence[PredictionRequest]
    request_id: str | None
    sticky_key: str | None

    def run(self, predictions: Predictions, ticket: Ticket) -> list[BatchItem]:
        """Return what becomes of each image."""
        serving = predictions.versions.to_answer(self.caller, self.name, self.requests[0].model_version)

        def compute(version: ServableVersion) -> list[BatchItem]:
            requests = [pinned(request, version, serving) for request in self.requests]
            is_on_trial = version is not serving
            return _items(
                predictions, replace(self, requests=requests), version, ticket, is_on_trial=is_on_trial
            )

        decisive = trying.Asked(self.caller.actor, self.requests[0].image, self.sticky_key)
        return trying.answer(predictions.tallies, serving, decisive, compute)[0]


def _items(
    predictions: Predictions, batch: _Batch, version: ServableVersion, ticket: Ticket, *, is_on_trial: bool
) -> list[BatchItem]:
    """Answer with one version; where it is on trial, an image that it cannot answer fails the whole batch."""
    items = []
    for index, request in enumerate(batch.requests):
        ticket.check_wanted()
        try:
            prediction = _answer_sized(predictions, version, request, asker_of(batch.caller))
            items.append(BatchItem(index=index, status=200, prediction=prediction))
        except CoordinatorError as error:
            if is_on_trial and trying.is_its_own(error):
                raise
            problem = problems.document_of(error, batch.request_id)
            items.append(BatchItem(index=index, status=problem.status, problem=problem))
    return items


def _answer_sized(
    predictions: Predictions, version: ServableVersion, request: PredictionRequest, asker: Asker
) -> Prediction:
    if len(request.image) > predictions.max_image_bytes:
        raise BodyTooLarge(
            f"the image has {len(request.image)} bytes; allowed: {predictions.max_image_bytes}"
        )
    return predictions.predictor.predict(version, request, asker).prediction


def _server_timing(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{step};dur={1000 * duration:.1f}" for step, duration in seconds.items())
