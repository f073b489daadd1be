"""The comparison with Flower: both draw the same numbers, its meter sees children, its ratios are what they say."""

import os
import subprocess
import sys
import time

import bench_flower
import numpy as np
import pytest

from pfedbayespt.protocol import RoundTask
from pfedbayespt.simulation.synthetic import blank_parameters, deltas, draws

_CHILD = "b = bytearray(50_000_000); input()"
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{_CHILD}'])"


def test_flower_s_sites_add_what_ours_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(bench_flower.HERE))
    from flower_bench import numbers

    ours = deltas(draws(blank_parameters(0.01), 3), 5, RoundTask.TRAINING)
    theirs = [each * numbers.factor(5) for each in numbers.draws(3, 0.01)]
    for number, array in enumerate(theirs):
        np.testing.assert_array_equal(array, ours[f"generator.{number}"])


def test_what_a_child_uses_counts() -> None:
    parent = subprocess.Popen([sys.executable, "-c", _PARENT], stdin=subprocess.PIPE)
    try:
        with bench_flower.TreeMeter(parent.pid) as meter:
            give_up_at = time.monotonic() + 60.0
            while meter.peak_rss_mb < 60.0 and time.monotonic() < give_up_at:
                time.sleep(0.05)
    finally:
        parent.communicate(b"\n")
    assert meter.peak_rss_mb >= 60.0


def test_the_tree_holds_this_process_and_no_stranger() -> None:
    found = set(bench_flower._tree(os.getpid()))
    assert os.getpid() in found
    assert os.getppid() not in found


def test_a_ratio_above_one_means_that_flower_needs_more() -> None:
    figures = {"sites": 4, "megabytes": 1.0}
    ours = figures | {"system": "ours"} | dict.fromkeys(bench_flower.COMPARED, 2.0)
    theirs = figures | {"system": "flower"} | dict.fromkeys(bench_flower.COMPARED, 3.0)
    (ratios,) = bench_flower.ratios([ours, theirs]).values()
    assert ratios == dict.fromkeys(bench_flower.COMPARED, 1.5)


def test_a_mean_that_is_wrong_ends_the_run(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(bench_flower.HERE))
    from flower_bench.numbers import blank, draws, factor

    mean = [np.mean(parts, axis=0) * factor(2) for parts in zip(draws(0, 0.01), draws(1, 0.01), strict=True)]
    np.savez(tmp_path / "round-1.npz", *blank(0.01))
    np.savez(tmp_path / "round-2.npz", *mean)
    assert bench_flower._error(tmp_path, 2, 2, 0.01) <= bench_flower.MAX_ERROR
    np.savez(tmp_path / "round-2.npz", *(array + np.float32(1e-3) for array in mean))
    with pytest.raises(AssertionError, match="wrong"):
        bench_flower._error(tmp_path, 2, 2, 0.01)
