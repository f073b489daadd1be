"""The states that things pass through (lifecycles: DESIGN.md section 3, docs/data-model.md).

The allowed transitions are tables on the coordinator; here are only the names both sides speak of and the
predicates that belong to them.
"""

from enum import StrEnum


class FederationStatus(StrEnum):
    """draft -> active <-> paused -> archived."""

    DRAFT = "draft"
    ACTIVE = "active"
    PAUSED = "paused"
    ARCHIVED = "archived"


class SiteStatus(StrEnum):
    """pending -> active <-> suspended -> revoked."""

    PENDING = "pending"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


class RoundStatus(StrEnum):
    """pending -> collecting -> aggregating -> evaluating -> published | held; any live state -> abandoned."""

    PENDING = "pending"
    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    EVALUATING = "evaluating"
    PUBLISHED = "published"
    HELD = "held"
    ABANDONED = "abandoned"

    @property
    def is_live(self) -> bool:
        """Whether the round can still change; a federation has at most one live round."""
        return self not in {RoundStatus.PUBLISHED, RoundStatus.HELD, RoundStatus.ABANDONED}


class RoundTask(StrEnum):
    """What sites do in a round.

    `statistics`: send the moments of the read-out features of their training images, nothing is trained.
    `training`: tune the shared parameters for the specification's local epochs.
    """

    STATISTICS = "statistics"
    TRAINING = "training"

    def touches(self, tensor_name: str) -> bool:
        """Whether the task changes the tensor: `statistics` those named `statistics.*`, `training` all others."""
        return tensor_name.startswith("statistics.") == (self is RoundTask.STATISTICS)


class UpdateStatus(StrEnum):
    """received -> accepted -> aggregated; received -> quarantined; accepted -> discarded."""

    RECEIVED = "received"
    ACCEPTED = "accepted"
    AGGREGATED = "aggregated"
    QUARANTINED = "quarantined"
    DISCARDED = "discarded"


class ModelVersionStatus(StrEnum):
    """candidate -> serving <-> retired; candidate -> held -> serving."""

    CANDIDATE = "candidate"
    SERVING = "serving"
    RETIRED = "retired"
    HELD = "held"


class TrialStatus(StrEnum):
    """running -> stopped (by hand or by a promotion) | tripped (by a bound)."""

    RUNNING = "running"
    STOPPED = "stopped"
    TRIPPED = "tripped"


class SiteAction(StrEnum):
    """What the coordinator asks of one site right now."""

    TRAIN = "train"
    EVALUATE = "evaluate"
    WAIT = "wait"
    FINISHED = "finished"
