"""Compare methods: partition, train, measure, and write tables; what is done already is not done again.

    python benchmarks/method/run.py --data POOL --weights FILE --out DIR [options]

Every run (setting, insertion, method, seed) writes one JSON file; the tables are made from all of them.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from catalogue import CORE, METHODS, Method
from fleet import Fleet
from measures import pooled_measures, site_measures
from partition import Setting, partition
from pools import Encoded, encode_pool, load_pool, thin
from report import write_tables

from pfedbayespt.model.config import HeadConfig, InsertionConfig, ModelConfig, PosteriorConfig, TrainingConfig

MID_BLOCK = 8
IMAGE_SIZE = 84
SMALL_GENERATOR = PosteriorConfig(latent_dim=16, hidden_dim=32, noise_dim=8)


@dataclass(frozen=True)
class Plan:
    """Everything but method and seed that a run depends on."""

    setting: Setting
    insertion: InsertionConfig
    num_rounds: int = 10
    num_samples: int = 4
    label_shift: bool = False
    validate: bool = False
    training: TrainingConfig = field(default_factory=TrainingConfig)
    posterior: PosteriorConfig = field(default_factory=lambda: SMALL_GENERATOR)


def run_one(encoded: Encoded, plan: Plan, method: Method, seed: int) -> dict[str, object]:
    """Train one method once and measure it."""
    split = partition(encoded.pool, plan.setting, seed, validate=plan.validate)
    config = ModelConfig(
        encoded.pool.num_classes,
        plan.insertion,
        replace(plan.posterior, **method.posterior),
        HeadConfig(MID_BLOCK, label_shift=plan.label_shift),
    )
    training = replace(plan.training, seed=seed, **method.training)
    fleet = Fleet(
        encoded,
        split.train,
        split.test,
        config,
        training,
        blind=method.blind,
        frozen_readout=method.frozen_readout,
        num_rounds=plan.num_rounds,
    )
    started = time.perf_counter()
    parameters = method.fit(fleet, plan.num_rounds)
    trained = time.perf_counter()
    answers = fleet.answer(parameters, plan.num_samples, shuffle=method.shuffle)
    return {
        "sites": site_measures(answers),
        "pooled": pooled_measures(answers),
        "mixtures": split.domain_mixture.tolist(),
        "training_seconds": trained - started,
        "prediction_seconds": time.perf_counter() - trained,
        "plan": asdict(plan),
    }


def run_all(encoded: Encoded, plan: Plan, names: list[str], seeds: range, out: Path) -> None:
    """Run what has no result yet."""
    for seed in seeds:
        for name in names:
            file = out / plan.setting.name / name / f"{seed}.json"
            if file.exists():
                _check_same_plan(file, plan)
                continue
            result = run_one(encoded, plan, METHODS[name], seed)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"method": name, "seed": seed, "setting": plan.setting.name} | result))
            accuracy, nll = (
                sum(s[m] for s in result["sites"]) / len(result["sites"]) for m in ("accuracy", "nll")
            )
            print(
                f"{plan.setting.name:14s} {name:22s} seed {seed}  accuracy {100 * accuracy:5.1f}  nll {nll:.3f}  "
                f"{result['training_seconds']:.0f} s + {result['prediction_seconds']:.0f} s",
                flush=True,
            )


def _check_same_plan(file: Path, plan: Plan) -> None:
    if json.loads(file.read_text())["plan"] != json.loads(json.dumps(asdict(plan))):
        raise SystemExit(f"{file} is the result of another plan; choose another --out, or remove it")


def main() -> None:
    """Run the command line."""
    options = _parser().parse_args()
    torch.set_num_threads(options.threads)
    plan = _plan(options)
    pool = thin(load_pool(options.data), options.train_per_cell, options.test_per_cell)
    encoded = encode_pool(pool, options.weights, IMAGE_SIZE, plan.insertion, MID_BLOCK, options.cache)
    names = options.methods.split(",") if options.methods else list(CORE)
    run_all(encoded, plan, names, range(options.seeds), options.out)
    print(json.dumps(write_tables(options.out, plan.setting.name)))


def _plan(options: argparse.Namespace) -> Plan:
    sizes = (options.sites, options.train_per_site, options.test_per_site)
    return Plan(
        Setting(options.kind, options.alpha, options.alpha_label, options.classes, options.held_out, *sizes),
        InsertionConfig(options.insertion, options.blocks, options.prompts, not options.shallow),
        options.rounds,
        options.samples,
        label_shift=options.label_shift,
        validate=options.validate,
        training=TrainingConfig(
            learning_rate=options.rate,
            head_learning_rate=options.head_rate,
            beta=options.beta,
            batch_size=options.batch,
            local_epochs=options.epochs,
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Compare federated methods over one frozen trunk.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path(".cache/contexts"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument(
        "--methods", default="", help="comma-separated names of catalogue.py; the core ones if empty"
    )
    parser.add_argument("--kind", choices=("F1", "F2", "F3"), default="F2")
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--alpha-label", type=float)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--held-out", type=int)
    parser.add_argument("--label-shift", action="store_true")
    parser.add_argument(
        "--validate", action="store_true", help="measure on spare training images, for tuning"
    )
    parser.add_argument("--insertion", choices=("twoway", "prefix", "hybrid"), default="prefix")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--shallow", action="store_true", help="prompts join once, not anew in each block")
    parser.add_argument("--sites", type=int, default=6)
    parser.add_argument("--train-per-site", type=int, default=64)
    parser.add_argument("--test-per-site", type=int, default=104)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument(
        "--train-per-cell", type=int, default=10, help="training images per domain and class in the pool"
    )
    parser.add_argument("--test-per-cell", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--head-rate", type=float, default=3e-3)
    parser.add_argument("--beta", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    return parser


if __name__ == "__main__":
    main()
