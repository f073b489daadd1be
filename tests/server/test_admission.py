"""Admission: so many and no more, and every place is given back."""

import threading

import anyio
import pytest

from pfedbayespt.server.errors import Overloaded
from pfedbayespt.server.predictions.admission import Admission


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


def test_work_runs_in_a_thread_and_its_errors_come_back() -> None:
    admission = Admission(max_running=1, max_waiting=1)

    def fail() -> None:
        raise RuntimeError("in the thread")

    async def work() -> int:
        with pytest.raises(RuntimeError, match="in the thread"):
            await admission.run(fail)
        return await admission.run(threading.get_ident)

    assert anyio.run(work) != threading.get_ident()
