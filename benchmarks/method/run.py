"""Compare methods: partition, train, measure, and write tables; what is done already is not done again.

    python benchmarks/method/run.py --cache DIR --weights FILE --out DIR [--plans A,B] [--methods A,B] [--seeds 5]
    python benchmarks/method/run.py ... --quick

Without names: the nearest rivals and ours under every setting, and all rivals and controls under the one of
`plans.IN_FULL`. That is what is published.

The tables and plots are made of all runs in `<out>/runs` (`store.py`), those of earlier commands included.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from baselines.closed_form import refit_ridge
from catalogue import METHODS, NEAREST_AND_OURS, RIVALS_AND_OURS, Method
from choices import QUICK_CHOICE, Choice, read_choices
from fleet import Answers, Fleet, Parameters
from measures import curves, novelty_measures, pooled_measures, site_measures
from partition import Partition, partition
from plans import IMAGE_SIZE, IN_FULL, MID_BLOCK, PLANS, PUBLISHED, QUICK, SETTINGS, SIZES, Plan
from plots import draw_plots
from pools import Encoded, encode_pool, load_pool, thin
from report import write_overall, write_tables
from store import Run, append_run, file_of, is_done, read_runs

from pfedbayespt.model.config import HeadConfig, ModelConfig

POOLS = {"letters": "letters-a.npz", "ideograms": "ideograms"}


def methods_of(plan: Plan) -> tuple[str, ...]:
    """Return what is run under a plan where nothing is named."""
    if plan.name == IN_FULL:
        return tuple(METHODS)
    return RIVALS_AND_OURS if plan is QUICK else NEAREST_AND_OURS


def build_fleet(
    encoded: Encoded, plan: Plan, method: Method, choice: Choice, seed: int, *, validate: bool = False
) -> tuple[Fleet, Partition]:
    """Return the sites of one run, and who holds what."""
    split = partition(encoded.pool, plan.setting, seed, validate=validate)
    config = ModelConfig(
        encoded.pool.num_classes,
        plan.insertion,
        replace(plan.posterior, **method.posterior),
        replace(
            HeadConfig(MID_BLOCK, label_shift=plan.label_shift, personal_residual=plan.personal_residual),
            **(method.head | {"fold_ridge": choice.fold_ridge}),
        ),
    )
    rates = {"learning_rate": choice.learning_rate, "head_learning_rate": choice.head_learning_rate}
    training = replace(plan.training, seed=seed, **(rates | dict(method.training)))
    fleet = Fleet(
        encoded,
        split.train,
        split.test,
        config,
        training,
        condition=method.condition,
        frozen_readout=method.frozen_readout,
        num_rounds=choice.num_rounds + training.head_rounds,
    )
    return fleet, split


def run_one(
    encoded: Encoded,
    plan: Plan,
    name: str,
    choice: Choice,
    seed: int,
    *,
    refit: Choice | None,
    controls: bool = False,
) -> dict[str, Run]:
    """Train one method once and measure it, with its further rows, those of its controls if asked.

    `refit` says how its head is fitted anew, where that is a row.
    """
    method = METHODS[name]
    fleet, split = build_fleet(encoded, plan, method, choice, seed)
    started = time.process_time()
    parameters = method.fit(fleet, choice)
    trained = time.process_time()
    readouts = fleet.test_readouts(parameters, plan.num_samples)
    unseen = split.unseen[:0] if method.personal else split.unseen
    results = {name: _measured(fleet, parameters, readouts, plan, unseen)}
    results[name] |= {
        "training_cpu_seconds": trained - started,
        "prediction_cpu_seconds": time.process_time() - trained,
    }
    if method.refitted and refit:
        refitted = refit_ridge(fleet, parameters, fleet.central_readouts(parameters), refit)
        results[method.refitted] = _measured(fleet, refitted, readouts, plan, unseen)
    for row, control in (method.controls if controls else {}).items():
        results[row] = _measures_of(fleet.answer(parameters, plan.num_samples, control))
    common = {
        "plan": plan.name,
        "seed": seed,
        **made_with(plan, method, choice, refit),
        "mixtures": split.domain_mixture.tolist(),
    }
    return {row: {"method": row, **common, **measured} for row, measured in results.items()}


def _measured(
    fleet: Fleet, parameters: Parameters, readouts: torch.Tensor, plan: Plan, unseen: np.ndarray
) -> dict[str, Any]:
    """Measure at the sites, from their read-outs, and zero-shot at those that never trained, [U, N] images."""
    answers = fleet.answer_from(readouts, parameters)
    measured = _measures_of(answers)
    if len(unseen):
        strangers = fleet.answer_unseen(parameters, unseen, plan.num_samples)
        measured["unseen"] = site_measures(strangers)
        if plan.setting.held_out_domain is not None:
            measured["novelty"] = novelty_measures(answers, strangers)
    return measured


def _measures_of(answers: Answers) -> dict[str, Any]:
    return {
        "sites": site_measures(answers),
        "pooled": pooled_measures(answers),
        "curves": curves(answers),
    }


def run_all(
    encoded: Encoded,
    plan: Plan,
    names: Sequence[str],
    seeds: range,
    file: Path,
    choices: dict[str, Choice],
    *,
    controls: bool,
) -> None:
    """Run what has no result in the file yet."""
    done = read_runs(file)
    for seed in seeds:
        for name in names:
            choice, refit = chosen_for(choices, plan, name)
            parts = made_with(plan, METHODS[name], choice, refit)
            missing = [row for row in rows_of(name, controls=controls) if not is_done(done, row, seed, parts)]
            if not missing:
                continue
            results = run_one(encoded, plan, name, choice, seed, refit=refit, controls=controls)
            for row in missing:
                append_run(file, results[row])
                _show(results[row])


def chosen_for(choices: dict[str, Choice], plan: Plan, name: str) -> tuple[Choice, Choice | None]:
    """Return how a method is trained, and how its head is fitted anew, where that is a row.

    Raises:
        SystemExit: it is not tuned.
    """
    tuned = METHODS[name].like or name
    refit_row = METHODS[tuned].refitted
    refit = _choice(choices, plan, refit_row) if METHODS[name].refitted and refit_row else None
    return _choice(choices, plan, tuned), refit


def _choice(choices: dict[str, Choice], plan: Plan, tuned: str) -> Choice:
    if tuned not in choices:
        raise SystemExit(f"{tuned} is not tuned for {plan.tuned_on or plan.name}: run tune.py first")
    return choices[tuned]


def made_with(plan: Plan, method: Method, choice: Choice, refit: Choice | None) -> dict[str, Any]:
    """Return all that a result depends on besides algorithm and seed, as it is kept."""
    parts = {
        "setup": asdict(plan),
        "terms": method.terms,
        "choice": asdict(choice),
        "refit": refit and asdict(refit),
    }
    kept: dict[str, Any] = json.loads(json.dumps(parts))
    return kept


def rows_of(name: str, *, controls: bool) -> list[str]:
    """Return the rows that one run of a method gives."""
    refitted = METHODS[name].refitted
    return [name, *([refitted] if refitted else ()), *(METHODS[name].controls if controls else ())]


def _show(run: Run) -> None:
    accuracy, nll = (sum(s[m] for s in run["sites"]) / len(run["sites"]) for m in ("accuracy", "nll"))
    seconds = run.get("training_cpu_seconds", 0.0)
    print(
        f"{run['plan']:22s} {run['method']:24s} seed {run['seed']}  "
        f"accuracy {100 * accuracy:5.1f}  nll {nll:.3f}  {seconds:.0f} s",
        flush=True,
    )


def load_encoded(plan: Plan, cache: Path, weights: Path) -> Encoded:
    """Return the plan's images with their contexts, encoded if they are not in the cache yet."""
    pool = load_pool(cache / "data" / POOLS[plan.data])
    if plan.per_cell:
        pool = thin(pool, *plan.per_cell)
    return encode_pool(pool, weights, IMAGE_SIZE, plan.insertion, MID_BLOCK, cache / "contexts")


def main() -> None:
    """Run the command line."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    plans = [QUICK] if options.quick else [PLANS[name] for name in options.plans]
    chosen = {} if options.quick else read_choices(options.out / "tuning.csv")
    summaries = []
    for plan in plans:
        encoded = load_encoded(plan, options.cache, options.weights)
        tuned = chosen.get(plan.tuned_on or plan.name, {})
        rows = [row for name in METHODS for row in rows_of(name, controls=False)]
        choices = dict.fromkeys(rows, QUICK_CHOICE) if options.quick else tuned
        names = options.methods or methods_of(plan)
        file = file_of(options.out, plan.name)
        if options.quick:  # takes minutes, and what is there may be another version's
            file.unlink(missing_ok=True)
        controls = plan.name == IN_FULL
        run_all(encoded, plan, names, range(options.seeds), file, choices, controls=controls)
        runs = read_runs(file)
        draw_plots(runs, plan.name, encoded.pool.domain_names, options.out)
        summaries.append(write_tables(runs, plan.name, options.out))
    for several, table in ((SETTINGS, "overall.md"), (SIZES, "sizes.md")):
        write_overall({name: read_runs(file_of(options.out, name)) for name in several}, options.out / table)
    for summary in summaries:
        print(json.dumps(summary))


def names_of(text: str) -> list[str]:
    """Return the names of a list with commas, as the command line has them."""
    return text.split(",")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare federated methods over one frozen trunk.")
    parser.add_argument("--cache", type=Path, required=True, help="holds data/ and contexts/")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument(
        "--out", type=Path, required=True, help="for runs, tables and plots; holds tuning.csv"
    )
    parser.add_argument(
        "--plans", type=names_of, default=list(PUBLISHED), help="comma-separated names of plans.py"
    )
    parser.add_argument("--methods", type=names_of, help="names of catalogue.py")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small federation, untuned")
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()
