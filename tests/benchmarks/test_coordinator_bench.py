"""The coordinator's benchmark: its sites draw what it says, its figures are there, its slope is a slope."""

import bench_coordinator
import numpy as np
import pytest

from pfedbayespt.protocol import RoundTask
from pfedbayespt.simulation.synthetic import blank_parameters, deltas, draws, mean_delta


def test_every_site_and_round_has_numbers_of_its_own_and_draws_them_again() -> None:
    blank = blank_parameters(0.01)
    drawn = [draws(blank, number) for number in (0, 1, 0)]
    flat = [
        tuple(deltas(drawn[site], round_number, RoundTask.TRAINING)["generator.0"][:5].tolist())
        for site, round_number in ((0, 1), (1, 1), (0, 2), (1, 2), (2, 1))
    ]
    assert len(set(flat[:4])) == 4
    assert flat[4] == flat[0]


@pytest.mark.parametrize(
    ("task", "touched"), [(RoundTask.TRAINING, "generator.0"), (RoundTask.STATISTICS, "statistics.mean")]
)
def test_a_round_touches_what_its_task_allows(task: RoundTask, touched: str) -> None:
    drawn = draws(blank_parameters(0.01), 3)
    moved = {name for name, delta in deltas(drawn, 1, task).items() if delta.any()}
    assert touched in moved
    assert moved == {name for name in drawn if task.touches(name)}


def test_the_mean_is_the_mean_of_what_is_submitted() -> None:
    drawn = [draws(blank_parameters(0.01), number) for number in range(3)]
    submitted = [deltas(one, 5, RoundTask.TRAINING)["generator.1"].astype(np.float64) for one in drawn]
    mean = mean_delta(drawn, 5, RoundTask.TRAINING)["generator.1"]
    np.testing.assert_allclose(mean, sum(submitted) / 3, rtol=1e-15)


def test_memory_that_grows_by_two_megabytes_per_site_has_that_slope() -> None:
    assert bench_coordinator.slope({8: 116.0, 16: 132.0, 64: 228.0}) == pytest.approx(2.0)


@pytest.mark.e2e
def test_a_case_measures_a_real_coordinator() -> None:
    row = bench_coordinator.measure(2, 0.01, num_rounds=1, poll_seconds=0.1)
    assert (row["sites"], row["megabytes"]) == (2, 0.01)
    assert 0.0 < row["mean_error"] <= bench_coordinator.MAX_ERROR
    for name in ("seconds_per_round_p50", "cpu_seconds_per_update", "peak_rss_mb", "heartbeat_p99_ms"):
        assert row[name] > 0.0
