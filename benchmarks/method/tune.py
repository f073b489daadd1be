"""Choose learning rates and rounds on groups that no site trains on: the same candidates for every method.

    python benchmarks/method/tune.py --cache DIR --weights FILE --out DIR [--plans A,B] [--methods A,B]

Rules:
    1. No seed of the tables deals images as the tuning does, and test images are not touched.
    2. What is in the table of tries already is not tried again, so the command goes on where it was stopped.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from catalogue import METHODS
from choices import (
    CANDIDATES,
    COLUMNS,
    HEAD_CANDIDATES,
    RIDGE_CANDIDATES,
    Choice,
    due,
    read_tries,
    row_of,
)
from measures import site_measures
from plans import PLANS, Plan
from pools import Encoded
from run import DEFAULT_METHODS, build_fleet, load_encoded


def candidates(name: str) -> tuple[Choice, ...]:
    """Return what is tried for a method; controls have nothing of their own to tune."""
    if METHODS[name].like is not None:
        return ()
    if METHODS[name].closed_form:
        return RIDGE_CANDIDATES
    return HEAD_CANDIDATES if METHODS[name].frozen_readout else CANDIDATES


def attempt(encoded: Encoded, plan: Plan, name: str, choice: Choice, deal: int) -> tuple[float, float]:
    """Train once and return accuracy and NLL on the spare groups, means over sites."""
    method = METHODS[name]
    fleet, _ = build_fleet(encoded, plan, method, choice, deal, validate=True)
    answers = fleet.answer(method.fit(fleet, choice), plan.num_samples)
    rows = site_measures(answers)
    accuracy, nll = (float(np.mean([row[m] for row in rows])) for m in ("accuracy", "nll"))
    return accuracy, nll


def tune(encoded: Encoded, plan: Plan, names: list[str], file: Path) -> None:
    """Make the tries that the table lacks."""
    for name in names:
        while missing := due(candidates(name), read_tries(file).get((plan.name, name), {})):
            for choice, deal in missing:
                started = time.process_time()
                accuracy, nll = attempt(encoded, plan, name, choice, deal)
                seconds = time.process_time() - started
                measured = (round(accuracy, 4), round(nll, 4), round(seconds))
                _append(file, row_of(plan.name, name, deal, choice, measured))
                print(f"{plan.name} {name} {deal} {choice}  {100 * accuracy:.1f} %  {nll:.3f}", flush=True)


def _append(file: Path, row: list[object]) -> None:
    new = not file.exists()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, row] if new else [row])


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="Tune every method alike on spare groups of training images."
    )
    parser.add_argument("--cache", type=Path, required=True, help="holds data/ and contexts/")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    tuned = [plan.name for plan in PLANS.values() if not plan.tuned_on]
    parser.add_argument("--plans", default=",".join(tuned))
    parser.add_argument("--methods", default=",".join(DEFAULT_METHODS))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.plans.split(","):
        plan = PLANS[name]
        encoded = load_encoded(plan, options.cache, options.weights)
        tune(encoded, plan, options.methods.split(","), options.out / "tuning.csv")


if __name__ == "__main__":
    main()
