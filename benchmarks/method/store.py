"""What has been run: `<out>/runs/<plan>.jsonl` has a line for each row of the tables and each seed.

Rules:
    1. It lies beside the tables that are made of it, so on any machine a further method, setting or seed is run
       alone and compared with all that was published.
    2. A line says all that its numbers depend on besides the code: plan, method, its terms, seed, rates. What was
       run otherwise is refused, never mixed in.
    3. A line is written when its run has been measured, so a stop loses the run in progress and no other.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Run = dict[str, Any]
Runs = dict[str, dict[int, Run]]
"""By row of the tables and seed."""

_DIGITS = 7


def file_of(out: Path, plan: str) -> Path:
    """Return where a plan's runs are."""
    return out / "runs" / f"{plan}.jsonl"


def read_runs(file: Path) -> Runs:
    """Return a plan's runs; none if there is no file yet."""
    runs: Runs = defaultdict(dict)
    for line in file.read_text().splitlines() if file.exists() else ():
        run = json.loads(line)
        runs[run["method"]][run["seed"]] = run
    return dict(runs)


def append_run(file: Path, run: Run) -> None:
    """Write a run down, its numbers to seven digits."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rounded = json.loads(json.dumps(run), parse_float=lambda number: float(f"{float(number):.{_DIGITS}g}"))
    with file.open("a") as stream:
        stream.write(json.dumps(rounded, separators=(",", ":")) + "\n")


def is_done(runs: Runs, row: str, seed: int, made_with: Mapping[str, Any]) -> bool:
    """Say whether a row has a run of this seed.

    Raises:
        SystemExit: it has one that was made with something else.
    """
    run = runs.get(row, {}).get(seed)
    if run is None:
        return False
    changed = [part for part in made_with if run[part] != made_with[part]]
    if changed:
        raise SystemExit(
            f"{row}, seed {seed} of {run['plan']} was run with another {' and '.join(changed)}; "
            "remove its line from the runs to run it again"
        )
    return True
