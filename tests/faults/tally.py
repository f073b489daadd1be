"""The account of a run: what was done to the coordinators on one database, and what became of it."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields


@dataclass
class Tally:
    """Counts of one database."""

    database: str
    faults_injected: int = 0
    survived: int = 0
    acknowledged_updates: int = 0
    acknowledged_lost: int = 0
    rounds_closed: int = 0
    rounds_aggregated_twice: int = 0
    races: int = 0
    recovery_seconds: list[float] = field(default_factory=list)

    @contextmanager
    def faults(self) -> Iterator[Callable[[int], None]]:
        """Count the faults that the block says it survived; a block that fails has met one that it did not."""
        counted = 0

        def survived(count: int) -> None:
            nonlocal counted
            counted += count

        try:
            yield survived
        except BaseException:
            self.faults_injected += 1
            raise
        finally:
            self.faults_injected += counted
            self.survived += counted

    def add(self, other: "Tally") -> None:
        """Take up what another account of the same database holds."""
        for one in fields(self):
            if one.name != "database":
                setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))

    def report(self) -> str:
        """Return the counts as one JSON object."""
        counts = {name: value for name, value in vars(self).items() if name != "recovery_seconds"}
        return json.dumps(counts | {"recovery_seconds_p95": percentile_95(self.recovery_seconds)})


def percentile_95(values: list[float]) -> float | None:
    """Return the smallest of the values that at least 95 % of them do not exceed; None if there are none."""
    if not values:
        return None
    return round(sorted(values)[math.ceil(0.95 * len(values)) - 1], 3)
