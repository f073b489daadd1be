"""What S posterior samples cost, in plain forwards of the trunk, by where prompts act.

    plain          one forward of the trunk: the price of an answer without any doubt
    twoway12, 6    a sequence per sample through all blocks, or through the last half: the naive way
    prefix         the trunk once, then one class token per sample against cached keys and values
    hybrid         the mean prompt steers the last blocks once, sampled prefixes act on top
    cached         `prefix` on a context that is already there
    prefix_bf16    `prefix` on a trunk in bfloat16; prefix_int8 likewise

Every way but `plain` and `cached` starts from the pixels and ends with probabilities and entropies. The ways take
turns, each repetition in another order; a ratio is the median over repetitions of the ratio to the plain forward of
the same repetition, so that a machine that slows down slows all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from pfedbayespt.model.backbone import Backbone, load_backbone
from pfedbayespt.model.classifier import PromptedClassifier, build_classifier
from pfedbayespt.model.config import BackboneConfig, InsertionConfig, ModelConfig
from pfedbayespt.model.precision import Precision, in_precision
from pfedbayespt.model.prediction import draw_noise, predict

NUM_CLASSES = 31
NUM_SAMPLES = 16
Way = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Costs:
    """Seconds of each repetition, way by way, in the same order."""

    seconds: dict[str, list[float]]

    def ratio(self, way: str, to: str = "plain") -> float:
        """Return the median over repetitions of what `way` costs in units of `to`."""
        return median(own / unit for own, unit in zip(self.seconds[way], self.seconds[to], strict=True))

    def table(self) -> str:
        """Return one line per way: milliseconds and plain forwards."""
        rows = [
            f"  {way:14s} {1000 * median(seconds):10.2f} ms {self.ratio(way):8.3f} plain forwards"
            for way, seconds in self.seconds.items()
        ]
        return "\n".join(rows)


def measure(config: BackboneConfig, weights: Path, repetitions: int, clock: Clock) -> Costs:
    """Measure all ways on one image; the first repetition is a warm-up and does not count."""
    ways = _ways(load_backbone(config, weights))
    names, seconds = list(ways), {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            begun = clock()
            ways[name]()
            seconds[name].append(clock() - begun)
    return Costs({name: own[1:] for name, own in seconds.items()})


def _ways(backbone: Backbone) -> dict[str, Way]:
    size, depth = backbone.image_size, backbone.depth
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    prefix = InsertionConfig("prefix", min(3, depth))
    half = max(depth // 2, 1)
    cached = _classifier(backbone, prefix)
    context, noise = cached.encode(image), _noise(cached)
    ways: dict[str, Way] = {
        "plain": lambda: backbone(image),
        "twoway12": _from_pixels(backbone, InsertionConfig("twoway", depth, 10), image),
        "twoway6": _from_pixels(backbone, InsertionConfig("twoway", half, 10), image),
        "prefix": _from_pixels(backbone, prefix, image),
        "hybrid": _from_pixels(backbone, InsertionConfig("hybrid", half), image),
        "cached": lambda: predict(cached, context, noise),
    }
    for name, precision in _PRECISIONS.items():
        ways[f"prefix_{name}"] = _from_pixels(in_precision(backbone, precision), prefix, image)
    return ways


_PRECISIONS: dict[str, Precision] = {"bf16": "bfloat16", "int8": "int8"}


def _classifier(backbone: Backbone, insertion: InsertionConfig) -> PromptedClassifier:
    model = build_classifier(ModelConfig(NUM_CLASSES, insertion), backbone, torch.Generator().manual_seed(0))
    return model.eval()


def _noise(model: PromptedClassifier) -> torch.Tensor:
    return draw_noise([0], NUM_SAMPLES, model.posterior.noise_width)


def _from_pixels(backbone: Backbone, insertion: InsertionConfig, image: torch.Tensor) -> Way:
    model = _classifier(backbone, insertion)
    noise = _noise(model)
    return lambda: predict(model, model.encode(image), noise)
