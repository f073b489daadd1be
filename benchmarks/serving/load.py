"""Load on a coordinator: what HTTP adds, what overload does, what a swap does.

Rules:
1. HTTP is compared with the same predictor on the same files in this process, at the same concurrency, in turns;
   the figure is the median over turns of the ratio of times.
2. Overload is an open loop: requests leave by the clock, however slow the answers are, and a refused one is not
   sent again. Capacity is what a closed loop gets as answers per second. The queue's bound is the server's default
   limit of waiting.
3. An answer is an error unless it is 200, or 503 or 429 with `Retry-After`. During the swaps every answer must be
   200 and name one known version: a number together with that version's own digest.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles

import httpx
from stage import Stage

from pfedbayespt.protocol import PredictionRequest
from pfedbayespt.server import Settings

CONCURRENCY = 2
_NUM_SAMPLES = 16
_REFUSED = 503
_TOO_MANY = 429
_POLL_SECONDS = 0.005
Check = Callable[[httpx.Response | None], None]


@dataclass
class Tally:
    """What came back.

    Attributes:
        seconds: how long each answer with status 200 took, as its caller saw it.
        refused: answers 503 with `Retry-After`, and 429.
        errors: everything else, one line each.
    """

    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    errors: list[str] = field(default_factory=list)

    def p99(self) -> float:
        """Return the 99th percentile of `seconds`."""
        return quantiles(self.seconds, n=100)[98] if len(self.seconds) > 1 else sum(self.seconds)


@dataclass(frozen=True)
class Asker:
    """Somebody who asks for the prediction of one picture, again and again."""

    stage: Stage
    http: httpx.AsyncClient
    picture: bytes

    async def ask(self, tally: Tally) -> httpx.Response | None:
        """Ask once and note what came back; None if nothing did."""
        begun = time.perf_counter()
        try:
            answer = await self.http.post(
                self.stage.path, content=self.picture, params={"num_samples": _NUM_SAMPLES}
            )
        except httpx.HTTPError as error:
            tally.errors.append(repr(error))
            return None
        if answer.status_code == httpx.codes.OK:
            tally.seconds.append(time.perf_counter() - begun)
        elif answer.status_code in {_REFUSED, _TOO_MANY} and "retry-after" in answer.headers:
            tally.refused += 1
        else:
            tally.errors.append(f"{answer.status_code} {answer.text[:200]}")
        return answer

    async def ask_times(self, times: int, concurrency: int, check: Check | None = None) -> Tally:
        """Ask `times` times in a closed loop, and have each answer checked."""
        tally, left = Tally(), iter(range(times))

        async def worker() -> None:
            for _ in left:
                answer = await self.ask(tally)
                if check is not None:
                    check(answer)

        await asyncio.gather(*(worker() for _ in range(concurrency)))
        return tally

    async def ask_by_the_clock(self, times: int, per_second: float) -> Tally:
        """Ask `times` times in an open loop."""
        tally, begun = Tally(), time.perf_counter()
        async with asyncio.TaskGroup() as asking:
            for number in range(times):
                await asyncio.sleep(max(0.0, begun + number / per_second - time.perf_counter()))
                asking.create_task(self.ask(tally))
        return tally


@asynccontextmanager
async def asker(stage: Stage, picture: bytes) -> AsyncIterator[Asker]:
    """Yield somebody with connections to spare, who waits for as long as it takes."""
    headers = {"Authorization": f"Bearer {stage.admin_token}", "Content-Type": "image/jpeg"}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(base_url=stage.url, headers=headers, limits=limits, timeout=120) as http:
        yield Asker(stage, http, picture)


@dataclass(frozen=True)
class Overload:
    """How a coordinator behaves at a multiple of its capacity; times in seconds."""

    capacity: float
    unloaded_p99: float
    queue_bound: float
    tally: Tally


def http_overhead(stage: Stage, picture: bytes, turns: int, requests_per_turn: int) -> float:
    """Return how much longer the same work takes over HTTP, as a ratio, at concurrency 2."""

    async def measure() -> list[float]:
        async with asker(stage, picture) as someone:
            ratios = []
            for _ in range(turns + 1):
                own = await asyncio.to_thread(_in_process_seconds, stage, picture, requests_per_turn)
                ratios.append(await _http_seconds(someone, requests_per_turn) / own)
            return ratios[1:]  # the first is a warm-up

    return median(asyncio.run(measure()))


def _in_process_seconds(stage: Stage, picture: bytes, times: int) -> float:
    asked = PredictionRequest(image=picture, num_samples=_NUM_SAMPLES)
    begun = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        list(pool.map(lambda _: stage.predictor.predict(stage.version, asked), range(times)))
    return time.perf_counter() - begun


async def _http_seconds(someone: Asker, times: int) -> float:
    begun = time.perf_counter()
    tally = await someone.ask_times(times, CONCURRENCY)
    if tally.errors or tally.refused:
        raise RuntimeError(f"without any load: {tally.refused} refused, {tally.errors[:3]}")
    return time.perf_counter() - begun


def overload(stage: Stage, picture: bytes, requests: int, factor: float) -> Overload:
    """Send `requests` requests at `factor` times the capacity."""

    async def measure() -> Overload:
        async with asker(stage, picture) as someone:
            probes = max(10, min(requests // 20, 200))
            unloaded = await someone.ask_times(probes, 1)
            begun = time.perf_counter()
            await someone.ask_times(probes, CONCURRENCY)
            capacity = probes / (time.perf_counter() - begun)
            tally = await someone.ask_by_the_clock(requests, factor * capacity)
        bound = float(Settings.model_fields["prediction_queue_seconds"].default)
        return Overload(capacity, unloaded.p99(), bound, tally)

    return asyncio.run(measure())


@dataclass
class Swaps:
    """What was named while versions were swapped."""

    stage: Stage
    answered: int = 0
    seen: set[int] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def check(self, answer: httpx.Response | None) -> None:
        """Note a fault unless the answer names one version, with that version's digest."""
        self.answered += 1
        if answer is None or answer.status_code != httpx.codes.OK:
            self.faults.append("no answer" if answer is None else f"{answer.status_code} {answer.text[:200]}")
            return
        named = answer.json()
        self.seen.add(named["model_version"])
        if self.stage.versions.get(named["model_version"]) != named["model_digest"]:
            self.faults.append(f"version {named['model_version']} with {named['model_digest']}")

    async def swap(self, requests: int, num_swaps: int) -> None:
        """Promote one version after the other, evenly over so many answers."""
        numbers = sorted(self.stage.versions)
        for turn in range(num_swaps):
            while self.answered < (turn + 1) * requests // (num_swaps + 1):
                await asyncio.sleep(_POLL_SECONDS)
            await asyncio.to_thread(self.stage.promote, numbers[turn % len(numbers)])


def swaps(stage: Stage, picture: bytes, requests: int, num_swaps: int) -> Swaps:
    """Promote and roll back `num_swaps` times under load."""
    watch = Swaps(stage)

    async def measure() -> None:
        async with asker(stage, picture) as someone:
            await asyncio.gather(
                watch.swap(requests, num_swaps), someone.ask_times(requests, CONCURRENCY, watch.check)
            )

    asyncio.run(measure())
    if watch.seen != set(stage.versions):
        watch.faults.append(f"versions {sorted(watch.seen)} answered; there are {sorted(stage.versions)}")
    return watch
