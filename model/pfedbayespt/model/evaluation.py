"""How good a model's probabilities are on labelled images.

    accuracy = mean 1[argmax pbar = y],    nll = - mean log pbar_y,    brier = mean sum_c (pbar_c - 1[y = c])^2
    ece = sum_b (n_b / N) | accuracy_b - confidence_b |     over 15 equal bins of the confidence max pbar

pbar is the posterior predictive of prediction.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from pfedbayespt.model.classifier import PromptedClassifier
from pfedbayespt.model.prediction import Predictive, draw_noise, predict
from pfedbayespt.model.sources import ContextSource

_NUM_BINS = 15
_TINY = 1e-12

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PerImage:
    """Probabilities [N, C] and entropies [N] in nats, in the order of the source."""

    probabilities: Array
    total: Array
    aleatoric: Array
    epistemic: Array
    epistemic_corrected: Array
    prompt_variance: Array


@dataclass(frozen=True)
class Evaluation:
    """The measures of one model on one source; `per_image` only on request."""

    num_examples: int
    accuracy: float
    nll: float
    brier: float
    ece: float
    per_image: PerImage | None = None

    def to_metrics(self) -> dict[str, float]:
        """Return the measures by name, as a site reports them."""
        return {"accuracy": self.accuracy, "nll": self.nll, "brier": self.brier, "ece": self.ece}


def evaluate(
    model: PromptedClassifier,
    source: ContextSource,
    *,
    num_samples: int = 16,
    seed: int = 0,
    batch_size: int = 64,
    class_prior: Float[Tensor, " C"] | None = None,
    per_image: bool = False,
) -> Evaluation:
    """Return the measures of `model` on the labelled images of `source`.

    Args:
        model: the classifier.
        source: encoded images; each has noise of its own, which depends on `seed` and its position alone.
        num_samples: S.
        seed: 0 or more, below 2^32.
        batch_size: images at a time; the measures do not depend on it.
        class_prior: the site's class frequencies; see `predict`.
        per_image: return probabilities and entropies of each image too.

    Raises:
        ValueError: there are no images.
    """
    if len(source) == 0:
        raise ValueError("there are no images to evaluate on")
    images = _joined(_predictives(model, source, num_samples, seed, batch_size, class_prior))
    probabilities, labels = torch.from_numpy(images.probabilities), source.labels.cpu()
    return Evaluation(
        num_examples=len(source),
        accuracy=float((probabilities.argmax(-1) == labels).double().mean()),
        nll=negative_log_likelihood(probabilities, labels),
        brier=brier_score(probabilities, labels),
        ece=calibration_error(probabilities, labels),
        per_image=images if per_image else None,
    )


def negative_log_likelihood(probabilities: Float[Tensor, "N C"], labels: Int[Tensor, " N"]) -> float:
    """Return the mean of -log pbar_y in nats; a probability of zero counts as 1e-12."""
    chosen = probabilities.double().gather(1, labels[:, None])
    return float(-chosen.clamp_min(_TINY).log().mean())


def brier_score(probabilities: Float[Tensor, "N C"], labels: Int[Tensor, " N"]) -> float:
    """Return the mean squared distance to the one-hot label, from 0 to 2."""
    targets = torch.nn.functional.one_hot(labels, probabilities.shape[1])
    return float((probabilities.double() - targets).square().sum(-1).mean())


def calibration_error(probabilities: Float[Tensor, "N C"], labels: Int[Tensor, " N"]) -> float:
    """Return the expected calibration error over 15 equal bins."""
    confidence, predicted = probabilities.double().max(-1)
    surplus = (predicted == labels).double() - confidence
    bins = (confidence * _NUM_BINS).ceil().long().clamp(1, _NUM_BINS) - 1
    per_bin = torch.zeros(_NUM_BINS, dtype=torch.float64).index_add_(0, bins, surplus)
    return float(per_bin.abs().sum() / len(labels))


def image_seeds(seed: int, positions: Iterable[int]) -> list[int]:
    """Return the seed of each image of a source, by its position alone."""
    return [(seed << 32) + position for position in positions]


def _predictives(
    model: PromptedClassifier,
    source: ContextSource,
    num_samples: int,
    seed: int,
    batch_size: int,
    class_prior: Tensor | None,
) -> Iterator[Predictive]:
    for start in range(0, len(source), batch_size):
        indices = torch.arange(start, min(start + batch_size, len(source)))
        noise = draw_noise(image_seeds(seed, indices.tolist()), num_samples, model.posterior.noise_width)
        yield predict(model, source.batch(indices), noise, class_prior)


def _joined(batches: Iterator[Predictive]) -> PerImage:
    """Keep what PerImage needs of each batch, and no sample longer than its batch."""
    names = [field.name for field in fields(PerImage)]
    rows = [[getattr(batch, name).float().cpu() for name in names] for batch in batches]
    columns = (torch.cat(column).numpy() for column in zip(*rows, strict=True))
    return PerImage(*columns)
