"""Model versions: immutable, numbered results of aggregations, each a safetensors file of shared parameters."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from pfedbayespt.protocol._base import Digest, Message, Slug, UtcTime
from pfedbayespt.protocol.calibrations import CalibrationSketch, VersionCalibration
from pfedbayespt.protocol.signatures import SignedMessage
from pfedbayespt.protocol.statuses import ModelVersionStatus, RoundTask
from pfedbayespt.protocol.updates import Metrics, NumExamples


class ParametersManifest(Message):
    """What a parameters file says about itself: the single metadata entry of its safetensors header.

    Nothing in it depends on when or where it was written, so redoing an aggregation gives the same bytes (P2).
    """

    format: Literal["pfedbayespt.parameters/1"] = "pfedbayespt.parameters/1"
    federation: Slug
    specification_digest: Digest
    version_number: Annotated[int, Field(ge=0)]
    parent_digest: Digest | None = None
    inputs_digest: Digest | None = Field(default=None, description="Digest of the recorded input list.")


class OptimiserStateManifest(Message):
    """What a server optimiser's state file says about itself; like the parameters, redoing it gives the same bytes.

    The tensor of a parameter with n elements is [n, moments] in float64: its momentum and, if the rule has one, its
    second moment.
    """

    format: Literal["pfedbayespt.optimiser_state/1"] = "pfedbayespt.optimiser_state/1"
    federation: Slug
    specification_digest: Digest
    version_number: Annotated[int, Field(ge=0)]
    inputs_digest: Digest = Field(description="As in the version's own file.")


class AggregationInput(Message):
    """One update that went into a version."""

    update_id: str
    site_id: str
    digest: Digest
    num_examples: NumExamples
    weight: float = Field(
        gt=0.0, le=1.0, description="Its share; the shares sum to one, less what staleness takes off."
    )


class VersionManifest(SignedMessage):
    """The signed word of what a version is and how it came about: all it takes to compute it again."""

    purpose: ClassVar[str] = "pfedbayespt.version-manifest/1"

    federation: Slug
    version_number: Annotated[int, Field(ge=0)]
    digest: Digest
    size_bytes: int
    specification_digest: Digest
    backbone_digest: Digest
    parent_digest: Digest | None = Field(description="None: the initial parameters.")
    round_id: str | None
    task: RoundTask | None
    rule: dict[str, JsonValue] = Field(description="How the inputs were combined, with every parameter.")
    inputs: tuple[AggregationInput, ...] = Field(description="In the order in which they were combined.")
    optimiser_state_digest: Digest | None = Field(
        description="The server optimiser's memory after this version."
    )
    parent_optimiser_state_digest: Digest | None
    code_version: str
    created_at: UtcTime


class Evaluation(Message):
    """A site's report of a version on its own held-out images: numbers only."""

    num_examples: NumExamples
    metrics: Metrics = Field(examples=[{"accuracy": 0.51, "nll": 1.82}])
    calibration: CalibrationSketch | None = Field(
        default=None,
        description="Scores on the same images, from which the version is calibrated; not given out again.",
    )


class SiteEvaluation(Message):
    """An evaluation and the site it came from."""

    site_id: str
    site_name: Slug
    evaluation: Evaluation
    reported_at: UtcTime


class ModelVersion(Message):
    """A model version as the coordinator knows it."""

    version_number: int
    federation: Slug
    status: ModelVersionStatus
    digest: Digest
    size_bytes: int
    parent_version: int | None
    round_id: str | None
    optimiser_state_digest: Digest | None = Field(
        default=None, description="The server optimiser's state after this version; None: there is none."
    )
    inputs: tuple[AggregationInput, ...] = Field(
        description="Lineage: the updates behind it, in digest order."
    )
    evaluations: tuple[SiteEvaluation, ...]
    calibration: VersionCalibration | None = Field(
        default=None,
        description="What makes its probabilities mean what they say; None: no site told its scores.",
    )
    manifest: VersionManifest | None = Field(default=None, description="Signed when it was made.")
    created_at: UtcTime
