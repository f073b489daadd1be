"""A federation and its specification: what every member agrees to before the first image is read.

The specification never changes once the federation is active. Sites pin its digest and the backbone's, and
refuse to go on if either is another one (promise P8).
"""

from collections import Counter
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from pfedbayespt.protocol._base import Digest, Message, Slug, UtcTime
from pfedbayespt.protocol.aggregation import AggregationSpecification, WeightedMean
from pfedbayespt.protocol.calibrations import CalibrationPolicy
from pfedbayespt.protocol.signatures import SignedMessage
from pfedbayespt.protocol.statuses import FederationStatus

ClassName = Annotated[str, Field(min_length=1, max_length=100)]
_OF_NUMBERS = Field(json_schema_extra={"items": {"type": "number"}})  # for readers who know no `prefixItems`
UnitShare = Annotated[float, Field(ge=0.0, le=1.0)]


class BackboneSpecification(Message):
    """The frozen trunk: a timm architecture name, the digest of its weights, and how images are prepared."""

    architecture: str = Field(pattern=r"^[a-z0-9_.]{1,100}$", examples=["vit_small_patch14_dinov2"])
    weights_digest: Digest = Field(description="SHA-256 of the safetensors file that holds the weights.")
    image_size_pixels: int = Field(ge=16, le=1024, examples=[112])
    mean: Annotated[tuple[float, float, float], _OF_NUMBERS] = (0.485, 0.456, 0.406)
    std: Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], _OF_NUMBERS] = (0.229, 0.224, 0.225)


class InsertionSpecification(Message):
    """Where prompts act (METHOD.md section 3)."""

    kind: Literal["twoway", "prefix", "hybrid", "midway", "none"] = Field(
        default="prefix",
        description="`none`: no prompts, a linear head on the frozen trunk; the family is `shared`.",
    )
    num_blocks: PositiveInt = Field(
        default=3, description="L: prompts act in the last L blocks, `midway` in those up to `mid_block`."
    )
    prompt_length: PositiveInt = Field(default=4, description="P: prompt tokens per prompted block.")
    deep: bool = Field(
        default=True,
        description="Where patches see prompts: fresh tokens in each block (deep) or in the first (shallow).",
    )


class PosteriorSpecification(Message):
    """The semi-implicit posterior over prompts and its generator (METHOD.md section 1)."""

    family: Literal["semi_implicit", "gaussian", "deterministic", "shared"] = Field(
        default="semi_implicit",
        description="`gaussian` drops the mixing noise, `deterministic` all noise; `shared` is one prompt for "
        "every image (federated prompt tuning), the rivals of the method on the same footing.",
    )
    latent: Literal["lowrank", "token", "full"] = "lowrank"
    latent_dim: PositiveInt = Field(default=32, description="q: latent width (per token for `token`).")
    noise_dim: PositiveInt = Field(default=16, description="n: width of the mixing noise eps.")
    hidden_dim: PositiveInt = Field(default=64, description="Width of the generator's bottleneck.")
    prompt_scale: PositiveFloat = Field(
        default=0.3, description="rms of R a relative to the prompt's own scale, at the start."
    )
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0


class HeadSpecification(Message):
    """The read-out and what of it is personal (METHOD.md sections 3 and 4)."""

    mid_block: PositiveInt | None = Field(
        default=None, description="Block whose features join the read-out; None: two thirds of the depth."
    )
    grid_size: Annotated[int, Field(ge=1, le=16)] = Field(
        default=3,
        description="g: of that block's patches the means over g x g cells join the read-out, so that it knows "
        "what is where; 1: their mean over the whole image. The head has (3 + g^2) d weights per class.",
    )
    label_shift: bool = Field(
        default=False,
        description="Train with logits shifted by the site's log class prior (balanced softmax). With "
        "`cross_fit_folds` sites also report the shares of their classes, in the statistics round.",
    )
    personal_residual: bool = Field(
        default=False, description="Add a zero-initialised head of the site's own, which never leaves it."
    )
    cross_fit_folds: Annotated[int, Field(ge=0, le=16)] = Field(
        default=0,
        description="F. 0: the head is trained along with the prompts. 2 or more: sites fit heads in closed form "
        "at the end of a round, and prompts are trained against the head that has not seen their image; an update "
        "then has F + 1 heads. 1 is not allowed. Without prompts (`insertion.kind: none`) there is one head, that "
        "of all images, whatever the number.",
    )
    ridge: PositiveFloat = Field(
        default=3.0,
        description="lambda of the head that answers, in closed form, per number of the read-out.",
    )
    fold_ridge: PositiveFloat = Field(
        default=10.0,
        description="lambda of the heads that prompts are trained against: one that fits less closely leaves "
        "prompts more to learn.",
    )
    carry_over: UnitShare = Field(
        default=0.99,
        description="kappa: lambda holds a site's head to this share of the federation's; 0: it is fitted afresh.",
    )
    relaxation: Annotated[float, Field(gt=0.0, lt=2.0)] = Field(
        default=1.8,
        description="omega: how far a site's head moves towards its closed form, 1: to it. Beyond it the mean over "
        "sites is sooner what all their images say; from 2 on it would run away.",
    )
    logit_scale: PositiveFloat = Field(
        default=12.0, description="From the outputs of the closed form to logits."
    )

    @model_validator(mode="after")
    def _one_fold_is_none(self) -> Self:
        if self.cross_fit_folds == 1:
            raise ValueError("cross_fit_folds is 1: no image would be held out; allowed: 0, or 2 to 16")
        return self


class TrainingSpecification(Message):
    """What a site does in one round (METHOD.md sections 2 and 4)."""

    local_epochs: PositiveInt = 2
    batch_size: PositiveInt = 32
    learning_rate: PositiveFloat = Field(default=2e-3, description="Of the shared prompt m.")
    generator_learning_rate_ratio: PositiveFloat = Field(
        default=1.0,
        description="Learning rate of the generator, its map and the scale, relative to that of m.",
    )
    head_learning_rate: PositiveFloat = 1e-3
    final_learning_rate_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.1,
        description="Both learning rates fall to this share over the federation's rounds, along half a cosine; "
        "they stay constant where num_rounds is not set.",
    )
    head_rounds: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=0,
        description="How many of num_rounds, the last ones, fit heads alone, with `head.cross_fit_folds`: prompts "
        "rest, and the mean of the sites' heads nears the head of all their images. The learning rates fall over "
        "the rounds before them.",
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    beta: Annotated[float, Field(ge=0.0)] = Field(
        default=1e-3, description="Weight of the KL per latent dimension, in nats."
    )
    beta_warmup_rounds: Annotated[int, Field(ge=0)] = 3
    num_mixing_samples: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=8, description="K: extra draws of the mixing distribution in the bound."
    )
    num_train_samples: PositiveInt = Field(default=1, description="S while training.")
    gradient_clip_norm: PositiveFloat = 5.0
    gradient_estimator: Literal["total", "path"] = Field(
        default="total",
        description="`total` differentiates the bound as written, `path` leaves out the score term.",
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class AsynchronousPolicy(Message):
    """Rounds that wait for nobody (FedBuff: Nguyen et al., AISTATS 2022).

    A training round is the filling of one buffer. It closes as soon as `buffer_size` updates are in, and the next
    one opens once its version is published. A site that trained from an older version hands in what it has: the
    update counts in the round that is open when it arrives. Its staleness is the number of versions between its
    base version and that round's.
    """

    buffer_size: PositiveInt = Field(description="Accepted updates that close a round.")
    max_staleness: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=10, description="An update that is staler than this is refused."
    )
    staleness_weight: Annotated[float, Field(ge=0.0, le=10.0)] = Field(
        default=0.5,
        description="a: an update weighs (1 + staleness)^-a of its share (FedAsync: Xie et al., 2019).",
    )


class RoundPolicy(Message):
    """When a round starts, whom it asks, when it closes, and what may be published."""

    num_rounds: PositiveInt | None = Field(
        default=None, description="Rounds to run by themselves; None: only when an admin starts one."
    )
    min_sites_to_start: PositiveInt = 2
    cohort_size: PositiveInt | None = Field(default=None, description="Sites asked per round; None: all.")
    over_select_ratio: Annotated[float, Field(ge=1.0, le=3.0)] = 1.0
    quorum: PositiveInt = Field(default=2, description="Least accepted updates; fewer: round abandoned.")
    deadline_seconds: Annotated[float, Field(gt=0, le=30 * 86400)] = 3600.0
    evaluation_deadline_seconds: Annotated[float, Field(gt=0, le=30 * 86400)] = 900.0
    late_policy: Literal["drop", "next_round", "buffer"] = Field(
        default="drop",
        description="A training update that comes after its round has closed: `drop` refuses it, `next_round` "
        "counts it in the round of the next number, `buffer` in whichever is open (asynchronous mode).",
    )
    asynchronous: AsynchronousPolicy | None = Field(
        default=None,
        description="Asynchronous mode, with `late_policy: buffer`; None: rounds wait for their cohort.",
    )
    max_weight_ratio: Annotated[float, Field(ge=1.0)] = Field(
        default=3.0, description="An update weighs at most this multiple of the median num_examples."
    )
    aggregation: AggregationSpecification = WeightedMean()
    max_accuracy_drop: UnitShare | None = Field(
        default=None,
        description="Promote only if no site's accuracy falls by more than this; None: promote without asking.",
    )
    evaluate: bool = Field(
        default=True, description="Ask sites to evaluate each candidate on held-out images."
    )

    @model_validator(mode="after")
    def _a_round_can_succeed(self) -> Self:
        if self.cohort_size is not None and self.cohort_size < self.quorum:
            raise ValueError(
                f"cohort_size {self.cohort_size} is below quorum {self.quorum}: no round could close"
            )
        if self.min_sites_to_start < self.quorum:
            raise ValueError(
                f"min_sites_to_start {self.min_sites_to_start} is below quorum {self.quorum}: no round could close"
            )
        if self.max_accuracy_drop is not None and not self.evaluate:
            raise ValueError("max_accuracy_drop needs evaluate: true, or there is nothing to compare")
        return self

    @model_validator(mode="after")
    def _asynchronous_mode_is_whole(self) -> Self:
        if (self.late_policy == "buffer") != (self.asynchronous is not None):
            raise ValueError("late_policy: buffer and asynchronous go together: set both or neither")
        if self.asynchronous is None:
            return self
        if self.asynchronous.buffer_size < self.quorum:
            raise ValueError(
                f"buffer_size {self.asynchronous.buffer_size} is below quorum {self.quorum}: no round could close"
            )
        if self.cohort_size is not None:
            raise ValueError("cohort_size has no meaning in asynchronous mode, which asks every site")
        return self


class FederationSpecification(Message):
    """Everything the members agree to."""

    task: Literal["image_classification"] = "image_classification"
    classes: tuple[ClassName, ...] = Field(min_length=2, max_length=10_000, examples=[["bird", "fruit"]])
    backbone: BackboneSpecification
    insertion: InsertionSpecification = InsertionSpecification()
    posterior: PosteriorSpecification = PosteriorSpecification()
    head: HeadSpecification = HeadSpecification()
    training: TrainingSpecification = TrainingSpecification()
    rounds: RoundPolicy = RoundPolicy()
    calibration: CalibrationPolicy = CalibrationPolicy()

    @model_validator(mode="after")
    def _heads_in_closed_form_are_averaged(self) -> Self:
        if self.head.cross_fit_folds and self.rounds.aggregation.rule != "weighted_mean":
            raise ValueError(
                f"head.cross_fit_folds goes with aggregation weighted_mean, not {self.rounds.aggregation.rule}: "
                "a head in closed form is no step that an optimiser could follow"
            )
        relaxation, late_policy = self.head.relaxation, self.rounds.late_policy
        if self.head.cross_fit_folds and relaxation > 1 and late_policy != "drop":
            raise ValueError(
                f"head.relaxation {relaxation:g} goes with late_policy drop, not {late_policy}: "
                "a late head steps from where the federation no longer is; allowed there: up to 1"
            )
        return self

    @model_validator(mode="after")
    def _without_prompts_there_is_a_head_alone(self) -> Self:
        if self.insertion.kind != "none":
            return self
        if self.posterior.family != "shared":
            raise ValueError(
                f"insertion.kind none has no prompts to draw, but posterior.family is {self.posterior.family}; "
                "allowed: shared"
            )
        if self.head.cross_fit_folds and self.head.personal_residual:
            raise ValueError(
                "with insertion.kind none and head.cross_fit_folds nothing takes steps in a round, so a "
                "head.personal_residual would stay zero; allowed: false, or no folds"
            )
        return self

    @model_validator(mode="after")
    def _head_rounds_come_last(self) -> Self:
        head_rounds, num_rounds = self.training.head_rounds, self.rounds.num_rounds
        if not head_rounds:
            return self
        if not self.head.cross_fit_folds:
            raise ValueError(
                f"training.head_rounds {head_rounds} goes with head.cross_fit_folds of 2 or more: "
                "heads that are trained along have nothing to do while prompts rest"
            )
        if num_rounds is None or head_rounds >= num_rounds:
            raise ValueError(
                f"training.head_rounds {head_rounds} are the last of rounds.num_rounds, which is "
                f"{'not set' if num_rounds is None else num_rounds}; allowed: a num_rounds above head_rounds"
            )
        return self

    @model_validator(mode="after")
    def _classes_are_distinct(self) -> Self:
        repeated = [name for name, count in Counter(self.classes).items() if count > 1]
        if repeated:
            raise ValueError(f"classes must be distinct, but these repeat: {repeated}")
        return self


class FederationCreate(Message):
    """Ask for a new federation, a draft until it has initial parameters and is activated."""

    name: Slug
    specification: FederationSpecification


class FederationTerms(SignedMessage):
    """The coordinator's word that this federation has this specification and never had another."""

    purpose: ClassVar[str] = "pfedbayespt.federation-terms/1"

    federation: Slug
    specification_digest: Digest
    backbone_digest: Digest
    issued_at: UtcTime


class Federation(Message):
    """A federation as the coordinator knows it."""

    name: Slug
    status: FederationStatus
    specification: FederationSpecification
    specification_digest: Digest
    terms: FederationTerms | None = Field(default=None, description="Signed when it was created.")
    serving_version: int | None = Field(description="Number of the model version that answers predictions.")
    rounds_published: int
    created_at: UtcTime
