"""The model's configuration, in frozen dataclasses.

Rules:
1. Field names, defaults and meanings are those of the federation's specification, one to one; the package knows
   the specification only as the JSON-able mapping it is, so it depends on nobody.
2. A configuration that exists is valid: every class checks its own values and says what is allowed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, TypeVar, get_args

InsertionKind = Literal["twoway", "prefix", "hybrid", "midway", "none"]
Family = Literal["semi_implicit", "gaussian", "deterministic", "shared"]
Latent = Literal["lowrank", "token", "full"]
GradientEstimator = Literal["total", "path"]

_Config = TypeVar("_Config")


class ConfigError(ValueError):
    """A configuration value is missing, unknown or out of range; the message says what is allowed."""


def _require(config: object, name: str, holds: Callable[[Any], bool], allowed: str) -> None:
    value = getattr(config, name)
    if not holds(value):
        raise ConfigError(f"{type(config).__name__}.{name} is {value!r}; allowed: {allowed}")


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        _require(config, name, lambda value: value > 0, "more than 0")


def _require_choice(config: object, name: str, choices: tuple[str, ...]) -> None:
    _require(config, name, lambda value: value in choices, ", ".join(choices))


@dataclass(frozen=True)
class BackboneConfig:
    """The frozen trunk: a timm architecture, its weights' `sha256:<hex>`, and how images are prepared."""

    architecture: str
    weights_digest: str
    image_size_pixels: int
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        _require_positive(self, "image_size_pixels")
        if not all(value > 0 for value in self.std):
            raise ConfigError(f"BackboneConfig.std is {self.std}; allowed: three positive numbers")

    @classmethod
    def from_specification(cls, specification: Mapping[str, Any]) -> Self:
        """Read the `backbone` part of a federation's specification."""
        part = dict(_part(specification, "backbone"))
        for name in ("mean", "std"):
            if name in part:  # JSON knows lists only
                part[name] = tuple(part[name])
        return _build(cls, part)


@dataclass(frozen=True)
class InsertionConfig:
    """Where prompts act: in `num_blocks` blocks, with `prompt_length` tokens per block.

    They are the last blocks; for `midway` those that end at the middle block. `none` has no prompts: a linear head
    on the frozen trunk.
    """

    kind: InsertionKind = "prefix"
    num_blocks: int = 3
    prompt_length: int = 4
    deep: bool = True

    def __post_init__(self) -> None:
        _require_choice(self, "kind", get_args(InsertionKind))
        _require_positive(self, "num_blocks", "prompt_length")


@dataclass(frozen=True)
class PosteriorConfig:
    """The posterior over prompts and its generator.

    Attributes:
        family: `gaussian` drops the mixing noise, `deterministic` all noise, `shared` the generator itself.
        latent: `lowrank` one latent for the whole prompt, `token` one per token, `full` the prompt itself.
        latent_dim: q, per token for `token`, not used by `full`.
        noise_dim: n, the width of the mixing noise eps.
        hidden_dim: width of the generator's bottleneck.
        prompt_scale: rms of R a relative to the prompt's own scale, at the start.
        dropout: share of the generator's hidden units dropped while training.
    """

    family: Family = "semi_implicit"
    latent: Latent = "lowrank"
    latent_dim: int = 32
    noise_dim: int = 16
    hidden_dim: int = 64
    prompt_scale: float = 0.3
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _require_choice(self, "family", get_args(Family))
        _require_choice(self, "latent", get_args(Latent))
        _require_positive(self, "latent_dim", "noise_dim", "hidden_dim", "prompt_scale")
        _require(self, "dropout", lambda value: 0 <= value < 1, "0 <= dropout < 1")


@dataclass(frozen=True)
class HeadConfig:
    """The read-out and what of it is personal.

    Attributes:
        mid_block: the block whose class token and patches join it; None: two thirds of the depth.
        grid_size: g; of that block's patches the means over g x g cells join it, so it knows what is where.
        cross_fit_folds: F; 0: the head is trained along with the prompts. 2 or more: heads are fitted in closed
            form at the end of a round, and prompts are trained against the one that has not seen their image;
            without prompts there is one head, that of all images, whatever the number.
        ridge: lambda of the head that answers, in closed form, per number of the read-out.
        fold_ridge: lambda of the heads that prompts are trained against.
        carry_over: kappa, the share of the federation's head that a site's is held to; 0: it is fitted afresh.
        relaxation: omega, how far a site's head moves towards the closed form; 1: to it, more: beyond it.
        logit_scale: from the regression's outputs to logits.
    """

    mid_block: int | None = None
    grid_size: int = 3
    label_shift: bool = False
    personal_residual: bool = False
    cross_fit_folds: int = 0
    ridge: float = 3.0
    fold_ridge: float = 10.0
    carry_over: float = 0.99
    relaxation: float = 1.8
    logit_scale: float = 12.0

    def __post_init__(self) -> None:
        if self.mid_block is not None:
            _require_positive(self, "mid_block")
        _require_positive(self, "grid_size", "ridge", "fold_ridge", "logit_scale")
        _require(self, "carry_over", lambda value: 0 <= value <= 1, "0 to 1")
        _require(self, "relaxation", lambda value: 0 < value < 2, "more than 0 and less than 2")
        _require(self, "cross_fit_folds", lambda value: value == 0 or value >= 2, "0, or 2 or more")


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shapes and the meaning of the model's parameters."""

    num_classes: int
    insertion: InsertionConfig = InsertionConfig()
    posterior: PosteriorConfig = PosteriorConfig()
    head: HeadConfig = HeadConfig()

    def __post_init__(self) -> None:
        _require(self, "num_classes", lambda value: value >= 2, "two classes or more")
        if self.insertion.kind == "none" and self.posterior.family != "shared":
            raise ConfigError(
                f"PosteriorConfig.family is {self.posterior.family!r}; allowed with InsertionConfig.kind 'none', "
                "which has no prompts to draw: shared"
            )

    @classmethod
    def from_specification(cls, specification: Mapping[str, Any]) -> Self:
        """Read `classes`, `insertion`, `posterior` and `head` of a federation's specification."""
        if "classes" not in specification:
            raise ConfigError("the specification has no classes")
        return cls(
            num_classes=len(specification["classes"]),
            insertion=_build(InsertionConfig, _part(specification, "insertion")),
            posterior=_build(PosteriorConfig, _part(specification, "posterior")),
            head=_build(HeadConfig, _part(specification, "head")),
        )


@dataclass(frozen=True)
class TrainingConfig:
    """What a site does in one round.

    Attributes:
        generator_learning_rate_ratio: the rate of generator, map and scale, as a share of the shared prompt's.
        final_learning_rate_ratio: share of the learning rates that is left in the last round that trains prompts.
        head_rounds: how many of the federation's rounds, the last ones, fit heads alone; prompts rest.
        beta: weight of the KL per latent dimension, in nats; reached linearly over `beta_warmup_rounds`.
        num_mixing_samples: K, extra draws of the mixing distribution in the bound.
        num_train_samples: S, posterior samples per image and step.
        gradient_estimator: `total` differentiates the bound as written, `path` leaves out the score term.
    """

    local_epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 2e-3
    generator_learning_rate_ratio: float = 1.0
    head_learning_rate: float = 1e-3
    final_learning_rate_ratio: float = 0.1
    head_rounds: int = 0
    weight_decay: float = 1e-4
    beta: float = 1e-3
    beta_warmup_rounds: int = 3
    num_mixing_samples: int = 8
    num_train_samples: int = 1
    gradient_clip_norm: float = 5.0
    gradient_estimator: GradientEstimator = "total"
    seed: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, "local_epochs", "batch_size", "learning_rate", "head_learning_rate")
        _require_positive(self, "num_train_samples", "gradient_clip_norm")
        _require_positive(self, "generator_learning_rate_ratio")
        for name in (
            "head_rounds",
            "weight_decay",
            "beta",
            "beta_warmup_rounds",
            "num_mixing_samples",
            "seed",
        ):
            _require(self, name, lambda value: value >= 0, "0 or more")
        _require(self, "final_learning_rate_ratio", lambda value: 0 < value <= 1, "more than 0, at most 1")
        _require_choice(self, "gradient_estimator", get_args(GradientEstimator))

    @classmethod
    def from_specification(cls, specification: Mapping[str, Any]) -> Self:
        """Read the `training` part of a federation's specification."""
        return _build(cls, _part(specification, "training"))


def _part(specification: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = specification.get(name, {})
    if not isinstance(part, Mapping):
        raise ConfigError(f"the specification's {name} is {part!r}; allowed: a mapping")
    return part


def _build(cls: type[_Config], part: Mapping[str, Any]) -> _Config:
    allowed = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(part) - allowed)
    if unknown:
        raise ConfigError(f"{cls.__name__} does not know {unknown}; allowed: {sorted(allowed)}")
    try:
        return cls(**part)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}: {error}") from error
