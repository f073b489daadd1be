"""What goes wrong between a site and its coordinator, on purpose: each fault happens so many times and is over."""

import re
import threading
from dataclasses import dataclass, field
from enum import StrEnum


class Fault(StrEnum):
    """What may happen to one request.

    `busy`: 503 with `Retry-After`, nothing done. `cut`: the connection is closed, nothing done. `lost`: the request
    is done, but its answer never arrives. `torn`: half of the answer arrives. `slow`: the answer takes its time.
    """

    BUSY = "busy"
    CUT = "cut"
    LOST = "lost"
    TORN = "torn"
    SLOW = "slow"


@dataclass
class _Planned:
    fault: Fault
    requests: re.Pattern[str]
    times: int


@dataclass
class Faults:
    """Faults that are planned and those that have happened.

    Attributes:
        seconds: how long a slow answer takes, and what `Retry-After` says.
        happened: `fault METHOD /path` of each that came about, in order.
    """

    seconds: float = 0.2
    happened: list[str] = field(default_factory=list)
    _planned: list[_Planned] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def plan(self, fault: Fault, requests: str = ".*", *, times: int = 1) -> None:
        """Have the next `times` requests that match go wrong.

        Args:
            fault: what happens.
            requests: a regular expression over `METHOD /path`.
            times: how many of them.
        """
        with self._lock:
            self._planned.append(_Planned(fault, re.compile(requests), times))

    def take(self, request: str) -> Fault | None:
        """Return what happens to this request; it counts as having happened."""
        with self._lock:
            for planned in self._planned:
                if planned.times > 0 and planned.requests.fullmatch(request):
                    planned.times -= 1
                    self.happened.append(f"{planned.fault} {request}")
                    return planned.fault
        return None
