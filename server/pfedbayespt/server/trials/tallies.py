"""What one process has seen of trials and not yet written down: sums, so that no request waits for the database."""

import threading
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Tally:
    """Sums; `Trial.tally` says what each counts."""

    num_tried: int = 0
    num_errors: int = 0
    num_answered: int = 0
    num_compared: int = 0
    num_flips: int = 0
    num_skipped: int = 0
    sum_distance: float = 0.0
    sum_trial_seconds: float = 0.0
    sum_serving_seconds: float = 0.0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


class Tallies:
    """The sums of each trial since they were last taken. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, Tally] = {}

    def note(self, trial_id: str, seen: Tally) -> None:
        """Add to a trial's sums."""
        with self._lock:
            self._seen[trial_id] = self._seen.get(trial_id, Tally()) + seen

    def take(self) -> dict[str, Tally]:
        """Return the sums by trial, and begin anew."""
        with self._lock:
            taken, self._seen = self._seen, {}
        return taken
