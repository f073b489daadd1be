"""Choose learning rates and rounds on groups that no site trains on: the same candidates for every method.

    python benchmarks/method/tune.py --cache DIR --weights FILE --out DIR [--plans A,B] [--methods A,B]

Rules:
    1. Seed 100 deals the images: no seed of the tables sees this deal, and test images are not touched.
    2. What is in the table of tries already is not tried again, so the command goes on where it was stopped.
"""

import argparse
import csv
import time
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from catalogue import METHODS
from choices import CANDIDATES, COLUMNS, HEAD_CANDIDATES, Choice, read_rows
from measures import site_measures
from plans import PLANS, Plan
from pools import Encoded
from run import DEFAULT_METHODS, build_fleet, load_encoded

_SEED = 100


def candidates(name: str) -> tuple[Choice, ...]:
    """Return what is tried for a method; closed forms and controls have nothing of their own to tune."""
    if METHODS[name].closed_form or METHODS[name].like is not None:
        return ()
    return HEAD_CANDIDATES if METHODS[name].frozen_readout else CANDIDATES


def attempt(encoded: Encoded, plan: Plan, name: str, choice: Choice) -> tuple[float, float]:
    """Train once and return accuracy and NLL on the spare groups, means over sites."""
    method = METHODS[name]
    fleet, _ = build_fleet(encoded, plan, method, choice, _SEED, validate=True)
    answers = fleet.answer(method.fit(fleet, choice.num_rounds), plan.num_samples)
    rows = site_measures(answers)
    accuracy, nll = (float(np.mean([row[m] for row in rows])) for m in ("accuracy", "nll"))
    return accuracy, nll


def tune(encoded: Encoded, plan: Plan, names: list[str], file: Path) -> None:
    """Make the tries that the table lacks."""
    known = {(row["plan"], row["method"], *(float(row[c]) for c in COLUMNS[2:5])) for row in read_rows(file)}
    for name in names:
        for choice in candidates(name):
            if (plan.name, name, *astuple(choice)) in known:
                continue
            started = time.process_time()
            accuracy, nll = attempt(encoded, plan, name, choice)
            seconds = time.process_time() - started
            _append(
                file, [plan.name, name, *astuple(choice), round(accuracy, 4), round(nll, 4), round(seconds)]
            )
            print(
                f"{plan.name:22s} {name:24s} {choice}  accuracy {100 * accuracy:.1f}  nll {nll:.3f}",
                flush=True,
            )


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
