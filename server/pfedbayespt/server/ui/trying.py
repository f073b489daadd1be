"""Trying a version on an image: what it says, how sure it is, and how far its samples spread."""

import base64
import math
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, File, Form, Request, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from pfedbayespt.protocol import Prediction, PredictionRequest
from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.errors import BodyTooLarge, InvalidRequest
from pfedbayespt.server.paths import FederationName
from pfedbayespt.server.predictions.endpoints import Predictions, PredictionsDep
from pfedbayespt.server.ui.pages import PageRoute
from pfedbayespt.server.ui.reading import Overview, overview_of
from pfedbayespt.server.ui.rendering import page
from pfedbayespt.server.ui.session import Session, SessionDep, check_form

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
MAX_CLASSES_SHOWN: Final = 8
_MAGIC: Final = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Row:
    """A class, its probability, and what each sample gives it."""

    label: str
    probability: float
    samples: tuple[float, ...]


@dataclass(frozen=True)
class Shown:
    """An answer, ready for the page."""

    prediction: Prediction
    rows: tuple[Row, ...]
    image_url: str
    most_entropy_nats: float


@router.get("/federations/{name}/try")
def ask(name: FederationName, request: Request, context: ContextDep, session: SessionDep) -> Response:
    """Show the form."""
    seen = _overview(context, session, name)
    return page(request, "try.html", seen=seen, shown=None, current="try", num_samples=16)


@router.post("/federations/{name}/try")
async def answer(
    name: FederationName,
    request: Request,
    context: ContextDep,
    session: SessionDep,
    predictions: PredictionsDep,
    image: Annotated[UploadFile, File()],
    csrf: Annotated[str, Form(max_length=64)],
    num_samples: Annotated[int, Form(ge=1, le=256)] = 16,
    version: Annotated[str, Form(max_length=10)] = "",
) -> Response:
    """Predict on the uploaded image; it is neither kept nor logged."""
    check_form(request, session, csrf)
    content = await image.read(predictions.max_image_bytes + 1)
    if len(content) > predictions.max_image_bytes:
        raise BodyTooLarge(f"the image is too large; allowed: {predictions.max_image_bytes} bytes")
    if not content:
        raise InvalidRequest("choose an image first: a JPEG, PNG or WEBP file")
    prediction = await _predict(predictions, session, name, _asked(content, num_samples, version))
    seen = await run_in_threadpool(_overview, context, session, name)
    shown = _shown(prediction, seen.federation.specification.classes, content)
    return page(request, "try.html", seen=seen, shown=shown, current="try", num_samples=num_samples)


def _overview(context: Context, session: Session, name: str) -> Overview:
    with context.database.read() as tx:
        return overview_of(tx, session, name)


def _asked(content: bytes, num_samples: int, version: str) -> PredictionRequest:
    if version and not version.isdecimal():
        raise InvalidRequest(f"the version is {version!r}; give its number, or nothing for the serving one")
    return PredictionRequest(
        image=content,
        num_samples=num_samples,
        model_version=int(version) if version else None,
        return_samples=True,
    )


async def _predict(
    predictions: Predictions, session: Session, name: str, asked: PredictionRequest
) -> Prediction:
    predictions.predictor.check_available()
    with predictions.admission.admitted():
        done = await predictions.admission.run(
            lambda _: predictions.predictor.predict(
                predictions.versions.to_answer(session.caller, name, asked.model_version), asked
            )
        )
    return done.result.prediction


def _shown(prediction: Prediction, classes: tuple[str, ...], content: bytes) -> Shown:
    index = {label: position for position, label in enumerate(classes)}
    samples = prediction.samples or ()
    rows = tuple(
        Row(each.label, each.probability, tuple(sample[index[each.label]] for sample in samples))
        for each in prediction.probabilities[:MAX_CLASSES_SHOWN]
    )
    kind = next((kind for start, kind in _MAGIC.items() if content.startswith(start)), "image/png")
    url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return Shown(prediction, rows, url, math.log(len(classes)))
