"""The training benchmark runs, and its last line is what it promises."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training" / "training_cost.py"


def test_the_last_line_is_one_json_object_with_all_measures() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, check=True)
    *explained, last = done.stdout.splitlines()
    summary = json.loads(last)
    assert list(summary) == [
        "backbone",
        "image_size",
        "twoway12_step_ms",
        "twoway6_cached_step_ms",
        "prefix_cached_step_ms",
        "hybrid_cached_step_ms",
        "speedup_prefix_cached",
        "speedup_twoway6_cached",
        "epochs",
        "total_speedup_with_cache_build",
    ]
    assert all(summary[name] > 0 for name in summary if name != "backbone")
    assert sum("times as fast as naive" in line for line in explained) == 4
