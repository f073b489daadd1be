"""What a running site tells its observer: one frozen record per thing that happened, in the order it happened."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pfedbayespt.protocol import RoundTask


@dataclass(frozen=True)
class SiteStarted:
    """The backbone is loaded and the images are checked."""

    site_name: str
    federation: str
    num_training_images: int
    num_held_out_images: int
    device: str


@dataclass(frozen=True)
class ImagesEncoded:
    """So many of the images that the site works on have passed the backbone."""

    num_done: int
    num_images: int


@dataclass(frozen=True)
class RoundStarted:
    """The coordinator asked this site to take part in a round."""

    round_number: int
    task: RoundTask
    num_epochs: int


@dataclass(frozen=True)
class EpochFinished:
    """One pass over the training images; `metrics` are means over it."""

    round_number: int
    epoch: int
    num_epochs: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class UpdateSubmitted:
    """The coordinator has acknowledged an update: it can no longer be lost.

    `staleness` counts the versions between the one it was trained from and the one its round builds on.
    """

    update_id: str
    digest: str
    size_bytes: int
    metrics: Mapping[str, float]
    staleness: int = 0


@dataclass(frozen=True)
class UpdateWaits:
    """The update is late and will count in a round that is not open yet; the site keeps it and comes again."""

    reason: str


@dataclass(frozen=True)
class UpdateNotTaken:
    """The coordinator will not have this update; the site goes on with the next round."""

    reason: str


@dataclass(frozen=True)
class RoundLeft:
    """The round ended while this site still trained; its work is thrown away."""

    round_number: int


@dataclass(frozen=True)
class VersionEvaluated:
    """A model version was tried on the held-out images and the result reported."""

    model_version: int
    num_examples: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class EvaluationNotTaken:
    """The coordinator has no use for this evaluation: it has one, or its decision is made."""

    model_version: int
    reason: str


@dataclass(frozen=True)
class Waiting:
    """Nothing to do now."""

    seconds: float


@dataclass(frozen=True)
class CoordinatorUnreachable:
    """The coordinator does not answer or cannot work now; the site tries again."""

    reason: str
    retry_in_seconds: float


@dataclass(frozen=True)
class SiteFinished:
    """The site ends its work: the federation is complete, or somebody asked it to stop."""

    stopped: bool


SiteEvent = (
    SiteStarted
    | ImagesEncoded
    | RoundStarted
    | EpochFinished
    | UpdateSubmitted
    | UpdateWaits
    | UpdateNotTaken
    | RoundLeft
    | VersionEvaluated
    | EvaluationNotTaken
    | Waiting
    | CoordinatorUnreachable
    | SiteFinished
)
Observer = Callable[[SiteEvent], None]


def unobserved(event: SiteEvent) -> None:
    """The observer that nobody listens to."""
