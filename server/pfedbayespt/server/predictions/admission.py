"""How many predictions are in house at once: full means no at the door, not a queue without end (promise P6).

A request is in house from before its body is read until it is answered, so the number of bodies and decoded images
in memory is bounded too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
from anyio import to_thread

from pfedbayespt.server.errors import Overloaded

Result = TypeVar("Result")


class Admission:
    """Lets `max_running` predictions run in threads of their own and `max_waiting` more wait for that.

    It belongs to one event loop, and is not to be used from other threads.
    """

    def __init__(self, max_running: int, max_waiting: int) -> None:
        self._limiter = anyio.CapacityLimiter(max_running)
        self._max_in_house = max_running + max_waiting
        self._in_house = 0

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Hold a place until the end of the block.

        Raises:
            Overloaded: there is none left.
        """
        if self._in_house >= self._max_in_house:
            raise Overloaded(f"{self._in_house} predictions are under way here; try again shortly")
        self._in_house += 1
        try:
            yield
        finally:
            self._in_house -= 1

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in a thread, as soon as fewer than `max_running` others do."""
        return await to_thread.run_sync(work, limiter=self._limiter)
