"""The serving benchmark runs whole on a tiny transformer: its figures mean nothing there, its promises do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[2] / "benchmarks/serving/bench_serving.py"
_KEYS = {
    "backbone", "image_size", "threads", "plain_ms", "twoway12_s16_ratio", "twoway6_s16_ratio", "prefix_s16_ratio",
    "hybrid_s16_ratio", "cached_s16_ratio", "bf16_speedup", "http_overhead_ratio", "requests", "errors",
    "overload_503", "p99_ms", "swap_requests", "swap_errors",
}  # fmt: skip


@pytest.mark.e2e
def test_one_run_measures_costs_overload_and_swaps_and_no_answer_is_wrong() -> None:
    done = subprocess.run(
        [sys.executable, _SCRIPT, "--quick", "--requests", "120", "--swap-requests", "60"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    assert set(measured) == _KEYS
    assert (measured["errors"], measured["swap_errors"]) == (0, 0), done.stdout
    assert (measured["requests"], measured["swap_requests"]) == (120, 60)
    assert all(measured[name] > 0 for name in _KEYS if name.endswith(("_ms", "_ratio", "speedup")))
