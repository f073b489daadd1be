"""A prediction and its honest doubt. All entropies are in nats, H(p) = -sum p log p."""

import base64
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from pfedbayespt.protocol._base import Digest, Message, Slug


def _from_base64(value: object) -> object:
    """Text is base64, bytes are the file itself."""
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except ValueError as error:
        raise ValueError(f"not base64 (RFC 4648, padded, without line breaks): {error}") from error


def _to_base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


ImageFile = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    PlainSerializer(_to_base64, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
NumSamples = Annotated[int, Field(ge=1, le=256)]
Seed = Annotated[int, Field(ge=0, lt=2**64)]


class PredictionOptions(Message):
    """How to answer: fields of the JSON form, query parameters of the other forms of a prediction request."""

    num_samples: NumSamples = Field(default=16, description="S: draws of the prompt posterior.")
    top_k: Annotated[int, Field(ge=1)] | None = Field(default=None, description="None: all classes.")
    seed: Seed | None = Field(default=None, description="None: derived from the image and the version.")
    model_version: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        default=None, description="None: the serving one."
    )


class PredictionRequest(PredictionOptions):
    """The JSON form of a prediction request."""

    image: ImageFile = Field(description="A JPEG, PNG or WEBP file, base64. Never a URL.")


class ClassProbability(Message):
    """A class and its posterior predictive probability."""

    label: str
    probability: float = Field(ge=0.0, le=1.0)


class Uncertainty(Message):
    """Total = aleatoric + epistemic (METHOD.md section 5)."""

    total_entropy_nats: float = Field(ge=0.0, description="Entropy of the mean probabilities.")
    aleatoric_entropy_nats: float = Field(ge=0.0, description="Mean entropy of the samples.")
    epistemic_entropy_nats: float = Field(ge=0.0, description="Their difference: the mutual information.")
    epistemic_entropy_corrected_nats: float = Field(
        ge=0.0, description="Times S/(S-1), as the plug-in estimate is biased low; equal to it at S = 1."
    )
    prompt_variance: float = Field(ge=0.0, description="Variance over samples, mean over the prompt.")


class Prediction(Message):
    """The answer for one image. The same request gives the same bytes."""

    federation: Slug
    label: str = Field(description="The most probable class.")
    probabilities: tuple[ClassProbability, ...] = Field(description="Most probable first.")
    uncertainty: Uncertainty
    model_version: int
    model_digest: Digest
    num_samples: NumSamples
    seed: Seed
    image_digest: Digest
