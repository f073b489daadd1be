"""How many predictions are in house, who waits and for how long: full means no at the door (promise P6).

Rules:
1. A request is in house from before its body is read until it is answered, so the number of bodies and decoded
   images in memory is bounded too. `max_running` compute, first come first served; `max_waiting` more are let in.
2. Waiting and computing have a limit each. A request that waited too long is refused before anything is computed.
   One that computes too long is refused too, but what it started keeps its turn until it has ended: a thread
   cannot be stopped, so it must not be replaced by another one.
3. A request whose caller went away, or whose own deadline has passed, is dropped: before its turn, or at the next
   of the points at which its work asks.
4. `door` asks before anything is looked up for a request, so that refusing costs those in house little.
5. Each refusal says when to come back: as many seconds as those in house will take, by what the latest took.
"""

import asyncio
import math
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar

from pfedbayespt.server.errors import Overloaded, QuotaExceeded

Result = TypeVar("Result")
Clock = Callable[[], float]

_MEMORY: Final = 0.1  # weight of the newest service time in the running mean
_LONGEST_RETRY_SECONDS: Final = 3600
_GONE: Final = "the caller went away"


@dataclass(frozen=True)
class Caller:
    """What is known of whoever waits for the answer.

    Attributes:
        gone: returns when the caller has gone away; cancelled when it is no longer of interest.
        patience_seconds: how long the caller itself waits, from now; None: it did not say.
    """

    gone: Callable[[], Awaitable[None]] | None = None
    patience_seconds: float | None = None


@dataclass
class Ticket:
    """The right to one answer, seen from the thread that works on it."""

    expires_at: float
    clock: Clock
    dropped: threading.Event = field(default_factory=threading.Event)

    def check_wanted(self) -> None:
        """Return if somebody still waits for the answer.

        Raises:
            Overloaded: the caller went away, or its time is over.
        """
        if self.dropped.is_set():
            raise Overloaded(_GONE)
        if self.clock() >= self.expires_at:
            raise Overloaded("the time for this answer is over")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """What the work returned, and how long it had to wait for its turn."""

    result: Result
    queue_seconds: float


class Admission:
    """Lets `max_running` predictions run in threads of their own and `max_waiting` more wait for that.

    No caller holds more than `max_per_caller` of these places; None: as many as there are.

    It belongs to one event loop, and is not to be used from other threads.
    """

    def __init__(
        self,
        max_running: int,
        max_waiting: int,
        *,
        max_per_caller: int | None = None,
        queue_seconds: float = 5.0,
        compute_seconds: float = 60.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._max_running = max_running
        self._max_in_house = max_running + max_waiting
        self._queue_seconds = queue_seconds
        self._compute_seconds = compute_seconds
        self._clock = clock
        self._turns = asyncio.Semaphore(max_running)
        self._threads = ThreadPoolExecutor(max_running, thread_name_prefix="prediction")
        self._in_house = 0
        self._max_per_caller = max_per_caller or self._max_in_house
        self._held: Counter[str] = Counter()  # places, by caller
        self._service_seconds = 0.0

    def check_space(self) -> None:
        """Return if there is a place left.

        Raises:
            Overloaded: there is none.
        """
        if self._in_house >= self._max_in_house:
            raise self._refusal(f"{self._in_house} predictions are under way here; try again shortly")

    @contextmanager
    def admitted(self, who: str = "") -> Iterator[None]:
        """Hold a place for the caller `who` until the end of the block.

        Raises:
            Overloaded: there is none left.
            QuotaExceeded: the caller holds as many as one may.
        """
        self.check_space()
        if self._held[who] >= self._max_per_caller:
            detail = f"you have {self._held[who]} predictions under way; allowed: {self._max_per_caller}"
            raise QuotaExceeded(detail, retry_after_seconds=self._retry_after_seconds())
        self._in_house += 1
        self._held[who] += 1
        try:
            yield
        finally:
            self._in_house -= 1
            self._held[who] -= 1
            if not self._held[who]:
                del self._held[who]

    async def run(self, work: Callable[[Ticket], Result], caller: Caller | None = None) -> Done[Result]:
        """Run `work` in a thread, as soon as fewer than `max_running` others do.

        Raises:
            Overloaded: its turn did not come in time, it took too long, or nobody waits for it any more.
        """
        caller, begun = caller or Caller(), self._clock()
        patience = math.inf if caller.patience_seconds is None else caller.patience_seconds
        gone = asyncio.ensure_future(_forever() if caller.gone is None else caller.gone())
        try:
            await self._wait_for_turn(gone, min(patience, self._queue_seconds))
            waited = self._clock() - begun
            limit = min(patience - waited, self._compute_seconds)
            return Done(await self._compute(work, gone, limit), waited)
        finally:
            gone.cancel()

    @property
    def num_in_house(self) -> int:
        """Predictions that compute or wait now."""
        return self._in_house

    @property
    def has_free_turn(self) -> bool:
        """Whether a prediction that came now would not wait, nor make one wait that is in house."""
        return self._in_house < self._max_running and not self._turns.locked()

    def expected_seconds(self) -> float:
        """How long those in house will take, by what the latest took."""
        return self._in_house * self._service_seconds / self._max_running

    async def _wait_for_turn(self, gone: "asyncio.Future[None]", limit: float) -> None:
        turn = asyncio.ensure_future(self._turns.acquire())
        has_turn = False
        try:
            await asyncio.wait((turn, gone), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            has_turn = turn.done() and not gone.done()
        finally:
            if not has_turn:
                self._give_up(turn)
        if not has_turn:
            raise self._refusal(_GONE if gone.done() else f"no turn came within {limit:.3g} seconds")

    def _give_up(self, turn: "asyncio.Future[Literal[True]]") -> None:
        if turn.done():
            self._turns.release()
        else:
            turn.cancel()

    async def _compute(
        self, work: Callable[[Ticket], Result], gone: "asyncio.Future[None]", limit: float
    ) -> Result:
        ticket = Ticket(self._clock() + limit, self._clock)
        context = copy_context()  # what the work logs and traces is the request's
        running = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: context.run(self._timed, work, ticket)
        )
        running.add_done_callback(self._ended)
        try:
            await asyncio.wait((running, gone), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ticket.dropped.set()
        if running.done():
            return running.result()[0]
        raise self._refusal(_GONE if gone.done() else f"no answer within {limit:.3g} seconds")

    def _timed(self, work: Callable[[Ticket], Result], ticket: Ticket) -> tuple[Result, float]:
        begun = self._clock()
        ticket.check_wanted()
        result = work(ticket)
        return result, self._clock() - begun

    def _ended(self, running: "asyncio.Future[tuple[Result, float]]") -> None:
        self._turns.release()
        if running.cancelled() or running.exception() is not None:
            return
        seconds = running.result()[1]
        known = self._service_seconds or seconds
        self._service_seconds = known + _MEMORY * (seconds - known)

    def _refusal(self, detail: str) -> Overloaded:
        return Overloaded(detail, retry_after_seconds=self._retry_after_seconds())

    def _retry_after_seconds(self) -> int:
        return min(max(math.ceil(self.expected_seconds()), 1), _LONGEST_RETRY_SECONDS)


async def _forever() -> None:
    await asyncio.Event().wait()
