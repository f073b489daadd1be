"""Choose learning rates and rounds on groups that no site trains on: as many tries for every trained method.

    python benchmarks/method/tune.py --cache DIR --weights FILE --out DIR [--plans A,B] [--methods A,B]

Rules:
    1. No seed of the tables deals images as the tuning does, and test images are not touched.
    2. What is in the table of tries already is not tried again, so the command goes on where it was stopped.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from baselines.closed_form import refit_ridge
from catalogue import METHODS
from choices import COLUMNS, DEALS, RIDGE_CANDIDATES, Choice, due, read_choices, read_tries, row_of
from fleet import Answers, Fleet, Parameters
from measures import site_measures
from plans import PLANS, PUBLISHED, Plan
from pools import Encoded
from run import build_fleet, load_encoded, methods_of, names_of


def candidates(name: str) -> Sequence[Choice]:
    """Return what is tried for a method; controls have nothing of their own to tune."""
    return () if METHODS[name].like is not None else METHODS[name].candidates


def tune(encoded: Encoded, plan: Plan, names: Sequence[str], file: Path) -> None:
    """Make the tries that the table lacks."""
    for name in names:
        while missing := due(candidates(name), read_tries(file).get((plan.name, name), {})):
            for choice, deal in missing:
                fleet, parameters = _trained(encoded, plan, name, choice, deal)
                readouts = fleet.test_readouts(parameters, plan.num_samples)
                _keep(file, plan, name, deal, choice, fleet.answer_from(readouts, parameters))
        if METHODS[name].refitted and METHODS[name].like is None:
            tune_refit(encoded, plan, name, file)


def tune_refit(encoded: Encoded, plan: Plan, name: str, file: Path) -> None:
    """Try every closed-form head over the prompts of the method's best choice; it is cheap, so on every deal."""
    row = METHODS[name].refitted
    best = read_choices(file)[plan.name][name]
    tries = read_tries(file).get((plan.name, row), {})
    for deal in DEALS:
        missing = [choice for choice in RIDGE_CANDIDATES if deal not in tries.get(choice, {})]
        if missing:
            fleet, parameters = _trained(encoded, plan, name, best, deal)
            tested = fleet.test_readouts(parameters, plan.num_samples)
            central = fleet.central_readouts(parameters)
        for choice in missing:
            refitted = refit_ridge(fleet, parameters, central, choice)
            _keep(file, plan, row, deal, choice, fleet.answer_from(tested, refitted))


def _trained(encoded: Encoded, plan: Plan, name: str, choice: Choice, deal: int) -> tuple[Fleet, Parameters]:
    fleet, _ = build_fleet(encoded, plan, METHODS[name], choice, deal, validate=True)
    return fleet, METHODS[name].fit(fleet, choice)


def _keep(file: Path, plan: Plan, row: str, deal: int, choice: Choice, answers: Answers) -> None:
    """Write a row of what the answers on the spare groups measure: accuracy and NLL, means over sites."""
    sites = site_measures(answers)
    accuracy, nll = (float(np.mean([site[m] for site in sites])) for m in ("accuracy", "nll"))
    _append(file, row_of(plan.name, row, deal, choice, (round(accuracy, 4), round(nll, 4))))
    print(f"{plan.name} {row} {deal} {choice}  {100 * accuracy:.1f} %  {nll:.3f}", flush=True)


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
    tuned = [plan.name for plan in PUBLISHED.values() if not plan.tuned_on]
    parser.add_argument("--plans", type=names_of, default=tuned)
    parser.add_argument("--methods", type=names_of)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in options.plans:
        plan = PLANS[name]
        encoded = load_encoded(plan, options.cache, options.weights)
        tune(encoded, plan, options.methods or methods_of(plan), options.out / "tuning.csv")


if __name__ == "__main__":
    main()
