"""A prediction and its honest doubt. All entropies are in nats, H(p) = -sum p log p."""

import base64
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, PositiveFloat, WithJsonSchema

from pfedbayespt.protocol._base import Digest, Message, Slug
from pfedbayespt.protocol.calibrations import ConformalMethod, VersionCalibration
from pfedbayespt.protocol.problems import Problem


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
Precision = Literal["float32", "bfloat16", "int8"]


class PredictionOptions(Message):
    """How to answer: fields of the JSON form, query parameters of the other forms of a prediction request."""

    num_samples: NumSamples = Field(default=16, description="S: draws of the prompt posterior.")
    top_k: Annotated[int, Field(ge=1)] | None = Field(default=None, description="None: all classes.")
    seed: Seed | None = Field(default=None, description="None: derived from the image and the version.")
    model_version: Annotated[int, Field(ge=0, lt=2**31)] | None = Field(
        default=None, description="None: the serving one."
    )
    class_prior: Annotated[tuple[PositiveFloat, ...], Field(max_length=10_000)] | None = Field(
        default=None,
        description="The caller's own class frequencies, in the order of the federation's classes, on any scale; "
        "for federations that train free of class priors (`label_shift`). Such answers are not calibrated.",
    )
    return_samples: bool = Field(
        default=False, description="Give out the probabilities of each of the S samples too."
    )


class PredictionRequest(PredictionOptions):
    """The JSON form of a prediction request."""

    image: ImageFile = Field(description="A JPEG, PNG or WEBP file, base64. Never a URL.")


class BatchRequest(PredictionOptions):
    """The JSON form of a request for several predictions with the same options."""

    images: tuple[ImageFile, ...] = Field(
        min_length=1, max_length=1000, description="JPEG, PNG or WEBP files, base64. Never URLs."
    )


class ClassProbability(Message):
    """A class and its posterior predictive probability."""

    label: str
    probability: float = Field(ge=0.0, le=1.0, description="As the model says it: not calibrated.")
    calibrated_probability: Annotated[float, Field(ge=0.0, le=1.0)] | None = Field(
        default=None, description="At the version's temperature; None: the answer is not calibrated."
    )

    @classmethod
    def ranked(
        cls, classes: Sequence[str], probabilities: Sequence[float], calibrated: Sequence[float] | None = None
    ) -> tuple[Self, ...]:
        """Return all classes, most probable first; ties in the order of the classes."""
        at_temperature = [None] * len(classes) if calibrated is None else calibrated
        rows = zip(classes, probabilities, at_temperature, strict=True)
        ranked = sorted(rows, key=lambda row: -row[1])
        return tuple(
            cls(label=label, probability=share, calibrated_probability=tempered)
            for label, share, tempered in ranked
        )


class Uncertainty(Message):
    """Total = aleatoric + epistemic (METHOD.md section 5)."""

    total_entropy_nats: float = Field(ge=0.0, description="Entropy of the mean probabilities.")
    aleatoric_entropy_nats: float = Field(ge=0.0, description="Mean entropy of the samples.")
    epistemic_entropy_nats: float = Field(ge=0.0, description="Their difference: the mutual information.")
    epistemic_entropy_corrected_nats: float = Field(
        ge=0.0, description="Times S/(S-1), as the plug-in estimate is biased low; equal to it at S = 1."
    )
    prompt_variance: float = Field(ge=0.0, description="Variance over samples, mean over the prompt.")


class CalibratedAnswer(Message):
    """What the answer is worth by the version's calibration; see docs/uncertainty.md for what it does not say."""

    digest: Digest = Field(description="Of the calibration, which `GET` of the model version shows.")
    temperature: PositiveFloat
    conformal_set: tuple[str, ...] = Field(
        description="Holds the true class for `target_coverage` of images like the held-out ones; most "
        "probable first."
    )
    method: ConformalMethod
    target_coverage: float
    scope: Literal["federation", "site"] = Field(
        description="Whose held-out images the set's coverage was fitted on: all sites', or the calling site's own."
    )
    abstain: bool | None = Field(
        description="Whether the federation's rule says not to use this answer; None: it has no rule."
    )

    @classmethod
    def by(
        cls,
        version: VersionCalibration,
        site_id: str | None,
        conformal_set: tuple[str, ...],
        total_entropy_nats: float,
    ) -> Self:
        """Return what `version` says of an answer to that site, or to a caller that is none."""
        calibration = version.calibration
        return cls(
            digest=version.digest,
            temperature=calibration.temperature,
            conformal_set=conformal_set,
            method=calibration.policy.method,
            target_coverage=calibration.policy.target_coverage,
            scope="site" if site_id in calibration.site_thresholds else "federation",
            abstain=calibration.abstains_at(total_entropy_nats),
        )


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
    precision: Precision = Field(default="float32", description="What the trunk computed in.")
    calibration: CalibratedAnswer | None = Field(
        default=None, description="None: the version is not calibrated, or the caller gave a class prior."
    )
    samples: tuple[tuple[float, ...], ...] | None = Field(
        default=None,
        description="On request: probabilities of each sample, in the order of the federation's classes.",
    )


class FeaturesForgotten(Message):
    """What a process has forgotten of the images that it was asked about."""

    num_bytes: int = Field(ge=0, description="Memory that their encodings took.")


class BatchItem(Message):
    """What became of one image of a batch: a prediction or a problem."""

    index: int = Field(ge=0, description="The image's place in the request, from 0.")
    status: int = Field(description="The HTTP status that the image alone would have been answered with.")
    prediction: Prediction | None = None
    problem: Problem | None = None


class PredictionBatch(Message):
    """The answers for the images of a batch, in the order of the request."""

    items: tuple[BatchItem, ...]
