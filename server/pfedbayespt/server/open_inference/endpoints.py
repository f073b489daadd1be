"""The HTTP operations of the Open Inference Protocol."""

import time
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from pfedbayespt.protocol import Prediction, PredictionRequest, ProblemType
from pfedbayespt.server.auth import EVERYBODY, Caller, Member
from pfedbayespt.server.errors import BodyTooLarge
from pfedbayespt.server.open_inference import codec
from pfedbayespt.server.open_inference.messages import (
    InferRequest,
    InferResponse,
    Live,
    ModelMetadata,
    ModelReady,
    Ready,
    ServerMetadata,
    TensorMetadata,
)
from pfedbayespt.server.openapi import documented, schema_of
from pfedbayespt.server.paths import FederationName
from pfedbayespt.server.predictions import trying
from pfedbayespt.server.predictions.admission import Ticket
from pfedbayespt.server.predictions.endpoints import (
    Predictions,
    PredictionsDep,
    StickyHeader,
    TimeoutHeader,
    asker_of,
    waiting,
)
from pfedbayespt.server.predictions.predictor import ServableVersion

router = APIRouter(prefix="/v2", tags=["open inference protocol"])

_JSON: Final = "application/json"
_BINARY: Final = "application/octet-stream"
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "JSON, or JSON followed by binary tensors (`Inference-Header-Content-Length`).",
        "content": {
            _JSON: {"schema": schema_of(InferRequest)},
            _BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_FINDS_NOTHING: Final = (ProblemType.NOT_FOUND, ProblemType.NO_SERVING_VERSION)
_INFERS: Final = (
    *_FINDS_NOTHING,
    ProblemType.IMAGE_REJECTED,
    ProblemType.BODY_TOO_LARGE,
    ProblemType.BODY_TIMEOUT,
    ProblemType.QUOTA_EXCEEDED,
    ProblemType.INFERENCE_UNAVAILABLE,
)
VersionText = Annotated[str, Path(max_length=20, description="The model version's number.")]
JsonLength = Annotated[
    int | None, Header(alias=codec.LENGTH_HEADER, ge=1, description="Bytes of JSON before binary tensors.")
]


_MODEL: Final = "/models/{name}"
_VERSION: Final = "/models/{name}/versions/{version}"


@router.get("", dependencies=[EVERYBODY], **documented("Describe the server", guarded=False))
def read_server() -> ServerMetadata:
    """Say what the server is and which extensions of the protocol it speaks."""
    return ServerMetadata()


@router.get("/health/live", dependencies=[EVERYBODY], **documented("Is the server alive", guarded=False))
def read_liveness() -> Live:
    """Answer."""
    return Live()


@router.get("/health/ready", dependencies=[EVERYBODY], **documented("Is the server ready", guarded=False))
def read_readiness(predictions: PredictionsDep) -> Ready:
    """Answer if predictions are computed here."""
    predictions.predictor.check_available()
    return Ready()


@router.get(_MODEL, **documented("Describe a model", *_FINDS_NOTHING))
def read_model(name: FederationName, predictions: PredictionsDep, caller: Member) -> ModelMetadata:
    """Describe the version of a federation's model that answers now: its number and its tensors."""
    return _metadata(predictions.versions.to_answer(caller, name, None))


@router.get(_VERSION, **documented("Describe a version of a model", *_FINDS_NOTHING))
def read_model_version(
    name: FederationName, version: VersionText, predictions: PredictionsDep, caller: Member
) -> ModelMetadata:
    """Describe one version of a federation's model."""
    return _metadata(predictions.versions.to_answer(caller, name, codec.version_number(version)))


@router.get(
    f"{_MODEL}/ready",
    **documented("Is a model ready", *_FINDS_NOTHING),
)
def read_model_readiness(name: FederationName, predictions: PredictionsDep, caller: Member) -> ModelReady:
    """Answer if a version of the federation's model serves and predictions are computed here."""
    predictions.versions.to_answer(caller, name, None)
    predictions.predictor.check_available()
    return ModelReady(name=name)


@router.get(
    f"{_VERSION}/ready",
    **documented("Is a version of a model ready", *_FINDS_NOTHING),
)
def read_model_version_readiness(
    name: FederationName, version: VersionText, predictions: PredictionsDep, caller: Member
) -> ModelReady:
    """Answer if the version exists and predictions are computed here."""
    predictions.versions.to_answer(caller, name, codec.version_number(version))
    predictions.predictor.check_available()
    return ModelReady(name=name)


@router.post(
    f"{_MODEL}/infer",
    response_model=InferResponse,
    **documented("Infer", *_INFERS),
    openapi_extra=_BODY,
)
async def infer(
    name: FederationName,
    request: Request,
    predictions: PredictionsDep,
    caller: Member,
    json_length: JsonLength = None,
    timeout: TimeoutHeader = None,
    sticky_key: StickyHeader = None,
) -> Response:
    """Classify the images in the input tensor with the version that serves, or that is on trial beside it.

    Parameters of the request: `num_samples` and `seed`, as in `predictions`.
    """
    return await _infer(
        _Inference(predictions, caller, name, None, sticky_key), request, json_length, timeout
    )


@router.post(
    f"{_VERSION}/infer",
    response_model=InferResponse,
    **documented("Infer with one version", *_INFERS),
    openapi_extra=_BODY,
)
async def infer_with_version(
    name: FederationName,
    version: VersionText,
    request: Request,
    predictions: PredictionsDep,
    caller: Member,
    json_length: JsonLength = None,
    timeout: TimeoutHeader = None,
) -> Response:
    """Classify the images in the input tensor with the version that the path names."""
    inference = _Inference(predictions, caller, name, codec.version_number(version))
    return await _infer(inference, request, json_length, timeout)


class _Inference:
    """One request for inference: of whom, by whom, of which version."""

    def __init__(
        self,
        predictions: Predictions,
        caller: Caller,
        name: str,
        number: int | None,
        sticky_key: str | None = None,
    ) -> None:
        self.predictions = predictions
        self.name = name
        self.caller = caller
        self._number = number
        self._sticky_key = sticky_key

    def check(self) -> None:
        """Refuse before the body is read what cannot be answered whatever it holds."""
        self.predictions.versions.check_visible(self.caller, self.name)
        self.predictions.predictor.check_available()

    def answer(self, asked: codec.Asked, ticket: Ticket) -> tuple[ServableVersion, list[Prediction]]:
        """Return the predictions of the images, and the version that was to answer."""
        versions, tallies = self.predictions.versions, self.predictions.tallies
        serving = versions.to_answer(self.caller, self.name, self._number)
        decisive = trying.Asked(self.caller.actor, asked.images[0], self._sticky_key)

        def compute(version: ServableVersion) -> list[Prediction]:
            number = self._number if version is serving else version.number
            return self._answer_with(version, number, asked, ticket)

        answers, version = trying.answer(tallies, serving, decisive, compute)
        return version, answers

    def _answer_with(
        self, version: ServableVersion, number: int | None, asked: codec.Asked, ticket: Ticket
    ) -> list[Prediction]:
        answers = []
        for image in asked.images:
            ticket.check_wanted()
            if len(image) > self.predictions.max_image_bytes:
                raise BodyTooLarge(
                    f"an image has {len(image)} bytes; allowed: {self.predictions.max_image_bytes}"
                )
            options = asked.options.model_copy(update={"model_version": number})
            request = PredictionRequest(image=image, **options.model_dump())
            answer = self.predictions.predictor.predict(version, request, asker_of(self.caller))
            answers.append(answer.prediction)
        return answers


async def _infer(
    inference: _Inference, request: Request, json_length: int | None, timeout: float | None
) -> Response:
    begun, predictions = time.monotonic(), inference.predictions
    with predictions.admission.admitted(inference.caller.actor):
        await run_in_threadpool(inference.check)
        asked = codec.read(await request.body(), json_length, predictions.max_batch_images)
        done = await predictions.admission.run(
            partial(inference.answer, asked), waiting(request, timeout, begun)
        )
    version, answers = done.result
    tensors = codec.tensors_of(answers, version.specification.classes)
    body, length = codec.write(asked, tensors, inference.name, str(answers[0].model_version))
    headers = {} if length is None else {codec.LENGTH_HEADER: str(length)}
    return Response(body, media_type=_JSON if length is None else _BINARY, headers=headers)


def _metadata(version: ServableVersion) -> ModelMetadata:
    num_classes = len(version.specification.classes)
    shapes = {"probabilities": (-1, num_classes), "classes": (num_classes,)}
    return ModelMetadata(
        name=version.federation,
        versions=(str(version.number),),
        inputs=(TensorMetadata(name=codec.INPUT, datatype="BYTES", shape=(-1,)),),
        outputs=tuple(
            TensorMetadata(
                name=name,
                datatype="BYTES" if name in {"label", "classes"} else "FP32",
                shape=shapes.get(name, (-1,)),
            )
            for name in codec.OUTPUTS
        ),
    )
