"""What a simulation tells: a row per round, the version that it ended with, and what the coordinator used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pfedbayespt.protocol import RoundStatus, RoundTask


@dataclass(frozen=True)
class RoundRow:
    """One round.

    Attributes:
        seconds: from its start to its end.
        coordinator_cpu_seconds: what it cost the coordinator; None: nobody could measure that.
        loss: mean over the sites that evaluated its version; None: none was asked to.
    """

    round_number: int
    task: RoundTask
    status: RoundStatus
    updates: int
    seconds: float
    coordinator_cpu_seconds: float | None
    loss: float | None


@dataclass(frozen=True)
class Outcome:
    """A simulation that is over.

    Attributes:
        mode: `http` or `in_process`.
        rounds: oldest first, the round of statistics included.
        parameters: of the version that serves.
        costs: further figures, by a name that ends in their unit.
    """

    mode: str
    sites: int
    rounds: tuple[RoundRow, ...]
    parameters: Mapping[str, "np.ndarray[Any, Any]"] = field(repr=False)
    costs: Mapping[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, float | int | str | None]:
        """Return the figures of the training rounds in one line."""
        trained = [row for row in self.rounds if row.task is RoundTask.TRAINING]
        updates = sum(row.updates for row in trained)
        measured = [row.coordinator_cpu_seconds for row in trained if row.coordinator_cpu_seconds is not None]
        return {
            "mode": self.mode,
            "sites": self.sites,
            "rounds": len(trained),
            "seconds_per_round": _per(sum(row.seconds for row in trained), len(trained)),
            "coordinator_cpu_seconds_per_update": _per(sum(measured), updates) if measured else None,
            **self.costs,
        }


def _per(total: float, count: int) -> float | None:
    return round(total / count, 6) if count else None
