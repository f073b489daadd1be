"""How much one API key, and one organisation over all its keys, may ask of one kind of operation.

A token bucket each: it holds a minute's worth of requests, and fills up evenly. Buckets are this process's own, so
several processes let through as many times more; nobody can starve the others in any of them.
"""

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from pfedbayespt.server.errors import RateLimited

ORGANISATION_SHARE: Final = 5
"""An organisation may ask as much as this many keys."""
_MAX_BUCKETS: Final = 10_000
_MINUTE_SECONDS: Final = 60.0


class RateLimits:
    """Counts requests. Safe to use from several threads."""

    def __init__(self, requests_per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = requests_per_minute
        self._clock = clock
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, key: str, organisation: str, operation: str) -> None:
        """Count one request.

        Raises:
            RateLimited: it is one too many; it says when the next one is not.
        """
        with self._lock:
            self._take((key, operation), self._rate)
            self._take((organisation, operation), self._rate * ORGANISATION_SHARE)

    def _take(self, bucket: tuple[str, str], per_minute: int) -> None:
        now = self._clock()
        left, then = self._buckets.pop(bucket, (float(per_minute), now))
        left = min(per_minute, left + (now - then) * per_minute / _MINUTE_SECONDS)
        self._buckets[bucket] = (left - 1 if left >= 1 else left, now)
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if left < 1:
            wait = math.ceil((1 - left) * _MINUTE_SECONDS / per_minute)
            raise RateLimited(f"allowed: {per_minute} requests a minute; try again in {wait} s", wait)
