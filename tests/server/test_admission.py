"""Admission: so many and no more, each for so long and no longer, and every place is given back."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from pfedbayespt.server.errors import Overloaded, QuotaExceeded
from pfedbayespt.server.predictions.admission import Admission, Caller, Ticket


def nothing(ticket: Ticket) -> str:
    return "done"


def held_by(release: threading.Event) -> Callable[[Ticket], str]:
    """Work that ends when the test says so."""

    def work(ticket: Ticket) -> str:
        assert release.wait(timeout=60)
        return "done"

    return work


async def gone_when(event: asyncio.Event) -> None:
    await event.wait()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 60))


def test_a_place_is_given_back_whatever_happens() -> None:
    admission = Admission(max_running=1, max_waiting=1)

    def fail_inside() -> None:
        with admission.admitted():
            raise RuntimeError("inside")

    for _ in range(5):
        with pytest.raises(RuntimeError, match="inside"):
            fail_inside()
    with (
        admission.admitted(),
        admission.admitted(),
        pytest.raises(Overloaded, match="2 predictions are under way"),
    ):
        admission.admitted().__enter__()
    with admission.admitted():
        pass


def test_one_caller_holds_no_more_places_than_one_may_and_others_are_still_let_in() -> None:
    admission = Admission(1, 3, max_per_caller=1)
    with admission.admitted("greedy"), admission.admitted("modest"):
        with pytest.raises(QuotaExceeded, match="you have 1 predictions under way; allowed: 1") as refusal:
            admission.admitted("greedy").__enter__()
        assert refusal.value.retry_after_seconds >= 1
    with admission.admitted("greedy"):
        pass


def test_work_runs_in_a_thread_and_its_errors_come_back() -> None:
    admission = Admission(max_running=1, max_waiting=1)

    def fail(ticket: Ticket) -> None:
        raise RuntimeError("in the thread")

    async def work() -> None:
        with pytest.raises(RuntimeError, match="in the thread"):
            await admission.run(fail)
        done = await admission.run(lambda _: threading.get_ident())
        assert done.result != threading.get_ident()
        assert done.queue_seconds >= 0

    run(work())


def test_a_turn_that_does_not_come_in_time_is_refused_and_nothing_is_computed_for_it() -> None:
    admission = Admission(1, 1, queue_seconds=0.02)
    release, computed = threading.Event(), threading.Event()

    async def work() -> None:
        first = asyncio.ensure_future(admission.run(held_by(release)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"no turn came within 0\.02 seconds"):
            await admission.run(lambda _: computed.set())
        release.set()
        assert (await first).result == "done"
        assert (await admission.run(nothing)).result == "done"

    run(work())
    assert not computed.is_set()


def test_what_computes_too_long_is_refused_but_keeps_its_turn_until_it_ends() -> None:
    admission = Admission(1, 1, queue_seconds=0.02, compute_seconds=0.02)
    release = threading.Event()

    async def work() -> None:
        with pytest.raises(Overloaded, match=r"no answer within 0\.02 seconds"):
            await admission.run(held_by(release))
        with pytest.raises(Overloaded, match="no turn came"):
            await admission.run(nothing)
        release.set()
        while True:  # the thread gives its turn back when it has ended
            try:
                assert (await admission.run(nothing)).result == "done"
            except Overloaded:
                continue
            return

    run(work())


def test_whoever_goes_away_leaves_the_queue() -> None:
    admission = Admission(1, 1)
    release, computed = threading.Event(), threading.Event()

    async def work() -> None:
        left = asyncio.Event()
        first = asyncio.ensure_future(admission.run(held_by(release)))
        await asyncio.sleep(0)
        second = asyncio.ensure_future(
            admission.run(lambda _: computed.set(), Caller(gone=lambda: gone_when(left)))
        )
        await asyncio.sleep(0)
        left.set()
        with pytest.raises(Overloaded, match="went away"):
            await second
        release.set()
        await first
        await admission.run(nothing)

    run(work())
    assert not computed.is_set()


def test_work_can_find_out_that_nobody_waits_any_more() -> None:
    admission = Admission(1, 1)
    begun, left_seen = threading.Event(), threading.Event()

    def step_by_step(ticket: Ticket) -> None:
        begun.set()
        while True:
            try:
                ticket.check_wanted()
            except Overloaded:
                left_seen.set()
                raise

    async def work() -> None:
        left = asyncio.Event()
        asked = asyncio.ensure_future(admission.run(step_by_step, Caller(gone=lambda: gone_when(left))))
        await asyncio.to_thread(begun.wait)
        left.set()
        with pytest.raises(Overloaded, match="went away"):
            await asked
        assert await asyncio.to_thread(left_seen.wait, 60)
        assert (await admission.run(nothing)).result == "done"

    run(work())


@pytest.mark.parametrize("patience_seconds", [0.0, -1.0])
def test_a_caller_whose_time_is_over_gets_nothing_computed(patience_seconds: float) -> None:
    admission, computed = Admission(1, 1), threading.Event()

    async def work() -> None:
        with pytest.raises(Overloaded):
            await admission.run(lambda _: computed.set(), Caller(patience_seconds=patience_seconds))
        await admission.run(nothing)

    run(work())
    assert not computed.is_set()


def test_the_callers_own_patience_ends_the_wait_before_the_servers_does() -> None:
    admission, release = Admission(1, 1, queue_seconds=60), threading.Event()

    async def work() -> None:
        first = asyncio.ensure_future(admission.run(held_by(release)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"within 0\.02 seconds"):
            await admission.run(nothing, Caller(patience_seconds=0.02))
        release.set()
        await first

    run(work())


def test_a_refusal_says_how_long_those_in_house_will_take() -> None:
    times = iter([0.0, 0.0, 0.0, 0.0, 0.0, 8.0, 8.0, 8.0])
    admission = Admission(2, 3, clock=lambda: next(times, 8.0))
    run(_once(admission))  # took eight seconds
    places = [admission.admitted() for _ in range(5)]
    for place in places:
        place.__enter__()
    with pytest.raises(Overloaded) as refusal:
        admission.admitted().__enter__()
    assert refusal.value.retry_after_seconds == 5 * 8 / 2


async def _once(admission: Admission) -> None:
    await admission.run(nothing)
