"""The terms of a federation as a form: what is asked for, and beside which field a fault belongs.

Rules:
1. The protocol's messages alone decide what is allowed, and what a field holds at first is their default.
2. A field's key is its path in `FederationCreate`, so that a fault finds its field by where it is.
3. What is not asked for takes its default; whoever wants another value has the API.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import Any, Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from pfedbayespt.protocol import FederationCreate, WeightedMean

ELSEWHERE: Final = ""
"""The key of faults that belong to no field."""
_MAX_SHOWN: Final = 200
_WORDS: Final = {
    "int_parsing": "Give a whole number.",
    "float_parsing": "Give a number, such as 0.002.",
    "missing": "Something is missing here.",
    "too_short": "Give more of them.",
}


class Kind(StrEnum):
    """How a field is filled in."""

    LINE = "line"
    LINES = "lines"
    NUMBERS = "numbers"
    CHOICE = "choice"


@dataclass(frozen=True)
class Field:
    """Something to fill in; an optional one may stay empty."""

    key: str
    label: str
    hint: str
    kind: Kind = Kind.LINE
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the API's documents call it."""
        return self.key.removeprefix("specification.")

    @property
    def default(self) -> str:
        """What it holds at first, as it would be typed."""
        return _RULE if self.key == _AGGREGATION else _typed(_declared(self.key))

    @property
    def is_optional(self) -> bool:
        """Whether it may stay empty."""
        return self.key != _AGGREGATION and _declared(self.key).default is None

    def read(self, text: str) -> Any:
        """Return what was typed in the shape that the message has it."""
        match self.kind:
            case Kind.LINES:
                return [line.strip() for line in text.splitlines() if line.strip()]
            case Kind.NUMBERS:
                return [part.strip() for part in text.split(",")] if text.strip() else []
        return text.strip()


@dataclass(frozen=True)
class Group:
    """Fields that belong together."""

    title: str
    purpose: str
    fields: tuple[Field, ...]


def _choice(key: str, label: str, hint: str, *choices: str) -> Field:
    return Field(f"specification.{key}", label, hint, Kind.CHOICE, choices)


def _line(key: str, label: str, hint: str) -> Field:
    return Field(f"specification.{key}", label, hint)


_AGGREGATION: Final = "specification.rounds.aggregation.rule"
_RULE: Final = WeightedMean().rule
GROUPS: Final = (
    Group(
        "What it is about",
        "Every member agrees to this, and none of it can be changed later.",
        (
            Field("name", "Name", "Lower-case letters, digits and inner hyphens, at most 63."),
            Field(
                "specification.classes",
                "Classes",
                "One a line, at least two; each site's image folders have these names.",
                Kind.LINES,
            ),
        ),
    ),
    Group(
        "Backbone",
        "The frozen transformer, which every site has as a file already; only its digest is sent.",
        (
            _line("backbone.architecture", "Architecture", "As timm names it: vit_small_patch14_dinov2."),
            _line(
                "backbone.weights_digest",
                "Digest of the weights",
                "sha256: and the 64 digits that sha256sum prints for the safetensors file.",
            ),
            _line(
                "backbone.image_size_pixels",
                "Image size, pixels",
                "16 to 1024, a multiple of the patch size: 112.",
            ),
            Field("specification.backbone.mean", "Mean of each channel", "Three numbers.", Kind.NUMBERS),
            Field("specification.backbone.std", "Deviation of each channel", "Three numbers.", Kind.NUMBERS),
        ),
    ),
    Group(
        "Prompts",
        "What is learned: a distribution over prompts, image by image.",
        (
            _choice(
                "insertion.kind",
                "Where prompts act",
                "prefix: as keys and values of the last blocks. midway: as tokens of those up to the middle one. "
                "none: no prompts, a head on the backbone's features; choose the posterior shared, and 2 folds.",
                "prefix",
                "twoway",
                "hybrid",
                "midway",
                "none",
            ),
            _line(
                "insertion.num_blocks", "Prompted blocks", "So many: the last, or the last up to the middle."
            ),
            _line("insertion.prompt_length", "Prompt tokens", "In each prompted block."),
            _choice(
                "posterior.family",
                "Posterior",
                "The method is semi_implicit; the others are its rivals.",
                "semi_implicit",
                "gaussian",
                "deterministic",
                "shared",
            ),
            _line(
                "posterior.prompt_scale",
                "Spread of prompts",
                "Relative to the prompt's own scale, at the start.",
            ),
        ),
    ),
    Group(
        "Head",
        "What turns the backbone's features into classes.",
        (
            _line("head.grid_size", "Cells a side", "1 to 16: the head reads the middle block cell by cell."),
            _choice(
                "head.label_shift",
                "Sites differ in their labels",
                "yes: each site's class prior is taken out of the head, and put back into its own answers.",
                "no",
                "yes",
            ),
            _line(
                "head.cross_fit_folds",
                "Folds",
                "0: the head learns along with the prompts. 2 to 16: prompts learn from heads that have not seen "
                "their image; 4 with midway is what wins where the backbone does not know the images. "
                "Without prompts, 2: sites fit the head in closed form.",
            ),
        ),
    ),
    Group(
        "Training",
        "What a site does in one round.",
        (
            _line("training.local_epochs", "Epochs", "Passes over the site's own images."),
            _line("training.batch_size", "Batch size", "Images a step."),
            _line("training.learning_rate", "Learning rate", "Of the shared prompt."),
            _line(
                "training.generator_learning_rate_ratio",
                "Rate of the generator",
                "Relative to the shared prompt's.",
            ),
            _line("training.head_learning_rate", "Learning rate of the head", "Of the read-out."),
            _line(
                "training.head_rounds",
                "Rounds of heads alone",
                "With folds: so many of the rounds, the last ones, leave prompts at rest; 10 of 20 is what wins.",
            ),
            _line("training.beta", "Weight of the KL", "Per latent dimension, in nats."),
        ),
    ),
    Group(
        "Rounds",
        "When a round starts, whom it asks, and what may be published.",
        (
            _line(
                "rounds.num_rounds", "Rounds", "To run by themselves; empty: only those that an admin starts."
            ),
            _line("rounds.min_sites_to_start", "Sites to start", "At least so many must have enrolled."),
            _line("rounds.quorum", "Quorum", "Least updates; with fewer a round is abandoned."),
            _line("rounds.cohort_size", "Sites asked a round", "Empty: all."),
            _line("rounds.deadline_seconds", "Time for updates, seconds", "After which a round closes."),
            _choice(
                "rounds.aggregation.rule",
                "Aggregation",
                "How updates become the next version.",
                "weighted_mean",
                "fedavgm",
                "fedadam",
                "fedyogi",
            ),
            _choice(
                "rounds.evaluate", "Evaluate candidates", "On held-out images of the sites.", "yes", "no"
            ),
            _line(
                "rounds.max_accuracy_drop",
                "Allowed drop of accuracy",
                "At any site, 0 to 1; a version that drops more is held. Empty: none is held.",
            ),
        ),
    ),
)
FIELDS: Final = tuple(chain.from_iterable(group.fields for group in GROUPS))


def at_first() -> dict[str, str]:
    """Return what the form holds before anything was typed, by key."""
    return {field.key: field.default for field in FIELDS}


def read(typed: Mapping[str, str]) -> FederationCreate:
    """Return what is asked for.

    Raises:
        ValidationError: the messages do not allow it.
    """
    asked: dict[str, Any] = {}
    for field in FIELDS:
        if field.is_optional and not typed[field.key].strip():
            continue
        *path, name = field.key.split(".")
        place = asked
        for part in path:
            place = place.setdefault(part, {})
        place[name] = field.read(typed[field.key])
    return FederationCreate.model_validate(asked)


def faults_of(error: ValidationError, typed: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong, by the key of the field that it belongs to; the first fault of each."""
    faults: dict[str, str] = {}
    for fault in error.errors(include_url=False, include_input=False):
        field = _field_of(fault)
        said = _said(fault, field, typed)
        faults.setdefault(field.key if field else ELSEWHERE, said)
    return faults


def _field_of(fault: Mapping[str, Any]) -> Field | None:
    where = ".".join(map(str, fault["loc"]))
    named = str(fault.get("ctx", {}).get("error", "")).partition(" ")[
        0
    ]  # such as `cohort_size 2 is below ...`
    return next(_at(where), None) or next(
        (field for field in FIELDS if field.key.endswith(f".{named}")), None
    )


def _at(where: str) -> Iterator[Field]:
    return (field for field in FIELDS if where == field.key or where.startswith(f"{field.key}."))


def _said(fault: Mapping[str, Any], field: Field | None, typed: Mapping[str, str]) -> str:
    if field is not None and not typed[field.key].strip():
        return "Fill this in."
    if field is not None and fault["type"] == "string_pattern_mismatch":
        return f"Allowed: {field.hint}"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])[:_MAX_SHOWN]
    return _WORDS.get(fault["type"], str(fault["msg"]))[:_MAX_SHOWN]


def _declared(key: str) -> FieldInfo:
    *path, name = key.split(".")
    message: Any = FederationCreate
    for part in path:
        message = message.model_fields[part].annotation
    declared: FieldInfo = message.model_fields[name]
    return declared


def _typed(declared: FieldInfo) -> str:
    if declared.is_required() or declared.default is None:
        return ""
    return _as_typed(declared.default)


def _as_typed(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case str():
            return value
        case Iterable():
            return ", ".join(map(_as_typed, value))
    return str(value)
