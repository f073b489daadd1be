"""What one training step costs, by where prompts act and what is cached; the last line is one JSON object.

    python benchmarks/training/training_cost.py [--quick] [--clock cpu|wall] [--device cuda]

    naive      visual prompt tuning as published: one shared prompt per block, two-way in all 12 blocks; every step
               starts from the pixels. It gets the middle block's read-out for nothing.
    twoway     semi-implicit prompts in the last 6 blocks, from the cached boundary state
    prefix     semi-implicit prefixes in the last 3 blocks, from cached keys and values
    hybrid     mean prompts in the last 6 blocks, sampled prefixes on top, from the cached boundary state

Rules:
1. All variants train with `training.update` on the same images in the same batches. A step is what a site pays for
   it: getting its contexts, forward, backward, optimiser.
2. The variants take turns, each repetition in another order. A speed-up is the median over repetitions of the ratio
   to the naive step of the same repetition, so that a machine that slows down slows all of them.
3. `--clock cpu` counts the process's processor time with one thread, which other processes disturb little. On an
   accelerator take `--clock wall`.
4. The whole training of `epochs` epochs is run in full for `prefix`, its encoding of all images included; that of
   the naive variant is its median step times the number of steps.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import torch

from pfedbayespt.model.backbone import Backbone, load_backbone, random_backbone
from pfedbayespt.model.classifier import PromptedClassifier, build_classifier
from pfedbayespt.model.config import InsertionConfig, ModelConfig, PosteriorConfig, TrainingConfig
from pfedbayespt.model.insertion import Context
from pfedbayespt.model.insertion._boundary import BoundaryContext
from pfedbayespt.model.sources import InMemoryContexts
from pfedbayespt.model.training import State, init, update

NUM_CLASSES = 10
Source = Callable[[torch.Tensor], Context]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    architecture: str
    image_size: int
    num_images: int
    batch_size: int
    repetitions: int
    epochs: int
    prompt_length: int = 4


FULL = Plan("vit_small_patch14_dinov2", 224, 64, 16, 9, 50)
QUICK = Plan("test_vit", 48, 16, 8, 3, 2)


@dataclass(frozen=True)
class Trainee:
    """One variant, ready to take steps."""

    model: PromptedClassifier
    state: State
    source: Source
    labels: torch.Tensor

    def step(self, indices: torch.Tensor) -> None:
        """Train on the images at `indices`."""
        update(self.model, self.state, self.source(indices), self.labels[indices])


@dataclass(frozen=True)
class Bench:
    """The images and the trunk that all variants share."""

    plan: Plan
    backbone: Backbone
    images: torch.Tensor
    labels: torch.Tensor
    clock: Clock

    def cached(self, insertion: InsertionConfig) -> Trainee:
        """A semi-implicit variant on contexts that are encoded once, here."""
        model = self._model(insertion, PosteriorConfig())
        batches = self.images.split(self.plan.batch_size)
        contexts = InMemoryContexts.encode(model.insertion, batches, self.labels)
        return self._trainee(model, contexts.batch)

    def naive(self) -> Trainee:
        """Visual prompt tuning in all blocks, from the pixels in every step."""
        config = InsertionConfig("twoway", self.backbone.depth, self.plan.prompt_length)
        model = self._model(config, PosteriorConfig(family="shared"))
        width = model.insertion.feature_dim
        features = self.images.new_zeros(self.plan.num_images, width)
        middle = self.images.new_zeros(self.plan.num_images, model.insertion.readout_dim - width)

        def embed(indices: torch.Tensor) -> Context:
            with torch.no_grad():
                tokens = self.backbone.embed(self.images[indices])
            return BoundaryContext(features[indices], tokens, middle[indices])

        return self._trainee(model, embed)

    def batches(self, seed: int) -> tuple[torch.Tensor, ...]:
        """One epoch in random order."""
        order = torch.randperm(self.plan.num_images, generator=torch.Generator().manual_seed(seed))
        return order.to(self.images.device).split(self.plan.batch_size)

    def seconds(self, work: Callable[[], object]) -> float:
        """How long `work` takes, on an accelerator to its end."""
        begun = self.clock()
        work()
        if self.images.is_cuda:
            torch.cuda.synchronize()
        return self.clock() - begun

    def _model(self, insertion: InsertionConfig, posterior: PosteriorConfig) -> PromptedClassifier:
        config = ModelConfig(NUM_CLASSES, insertion, posterior)
        return build_classifier(config, self.backbone, torch.Generator().manual_seed(0))

    def _trainee(self, model: PromptedClassifier, source: Source) -> Trainee:
        config = TrainingConfig(batch_size=self.plan.batch_size)
        state = init(model, self.labels, config, round_number=1, num_rounds=None, seed=0)
        return Trainee(model, state, source, self.labels)


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    plan = QUICK if asked.quick else FULL
    torch.set_num_threads(1)
    clock = time.process_time if asked.clock == "cpu" else time.perf_counter
    bench = _prepared(plan, torch.device(asked.device), clock)
    last = min(6, bench.backbone.depth)
    prefix = InsertionConfig("prefix", 3, plan.prompt_length)
    trainees = {
        "twoway12": bench.naive(),
        "twoway6_cached": bench.cached(InsertionConfig("twoway", last, plan.prompt_length)),
        "prefix_cached": bench.cached(prefix),
        "hybrid_cached": bench.cached(InsertionConfig("hybrid", last, plan.prompt_length)),
    }
    times = _step_seconds(bench, trainees)
    speedups = {name: median(_ratios(times, name)) for name in times}
    for name, seconds in times.items():
        print(
            f"{name:16s} {1000 * median(seconds):9.2f} ms per step, {speedups[name]:7.2f} times as fast as naive"
        )
    naive_total = plan.epochs * len(bench.batches(0)) * median(times["twoway12"])
    prefix_total = bench.seconds(lambda: _train_from_scratch(bench, prefix))
    print(
        f"{plan.epochs} epochs: naive {naive_total:.1f} s (its steps, counted), prefix {prefix_total:.1f} s "
        f"(run, encoding included); {asked.clock} time, batches of {plan.batch_size}, {bench.images.device}"
    )
    print(json.dumps(_summary(plan, times, speedups, naive_total / prefix_total)))


def _prepared(plan: Plan, device: torch.device, clock: Clock) -> Bench:
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "random.safetensors"  # what a weight's value is costs nothing
        config = random_backbone(weights, architecture=plan.architecture, image_size_pixels=plan.image_size)
        backbone = load_backbone(config, weights, device)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(plan.num_images, 3, plan.image_size, plan.image_size, generator=generator)
    labels = torch.arange(plan.num_images) % NUM_CLASSES
    return Bench(plan, backbone, images.to(device), labels.to(device), clock)


def _step_seconds(bench: Bench, trainees: dict[str, Trainee]) -> dict[str, list[float]]:
    """Seconds per step, one of each repetition; the first is a warm-up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in trainees}
    names = list(trainees)
    for repetition in range(bench.plan.repetitions + 1):
        indices = bench.batches(repetition)[0]
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(bench.seconds(partial(trainees[name].step, indices)))
    return {name: seconds[1:] for name, seconds in times.items()}


def _ratios(times: dict[str, list[float]], name: str) -> list[float]:
    return [naive / own for naive, own in zip(times["twoway12"], times[name], strict=True)]


def _train_from_scratch(bench: Bench, insertion: InsertionConfig) -> None:
    trainee = bench.cached(insertion)
    for epoch in range(bench.plan.epochs):
        for indices in bench.batches(epoch):
            trainee.step(indices)


def _summary(
    plan: Plan, times: dict[str, list[float]], speedups: dict[str, float], total: float
) -> dict[str, object]:
    steps = {f"{name}_step_ms": round(1000 * median(seconds), 3) for name, seconds in times.items()}
    return {
        "backbone": plan.architecture,
        "image_size": plan.image_size,
        **steps,
        "speedup_prefix_cached": round(speedups["prefix_cached"], 2),
        "speedup_twoway6_cached": round(speedups["twoway6_cached"], 2),
        "epochs": plan.epochs,
        "total_speedup_with_cache_build": round(total, 2),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tiny transformer, to see that it runs")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
