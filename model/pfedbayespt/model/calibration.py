"""Checked uncertainty: temperature, conformal sets and what a site tells of its held-out images.

    temperature   p_T = softmax(log pbar / T)
    THR           s(y) = 1 - pbar_y                                        Sadinle, Lei and Wasserman, JASA 2019
    APS           s(y) = sum_{c ranks above y} pbar_c + u pbar_y           Romano, Sesia and Candes, NeurIPS 2020
    RAPS          s(y) = APS + penalty * max(0, rank(y) - free ranks)      Angelopoulos et al., ICLR 2021
    set           {c : s(c) <= q},   q the ceil((n + 1) coverage)-th smallest score of n calibration examples

u ~ U(0, 1) is drawn once per image, from a stream of its own under the image's seed, so that sets can be replayed.
Ranks count from one, ties are broken by the order of the classes. The most probable class is always in the set: an
empty set would say nothing to anybody, and leaving it out could only lower the coverage.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
import numpy.typing as npt

from pfedbayespt.model.classifier import PromptedClassifier
from pfedbayespt.model.evaluation import evaluate, image_seeds
from pfedbayespt.model.sources import ContextSource

Method = Literal["thr", "aps", "raps"]
Array = npt.NDArray[np.float64]

_SET_STREAM = 1  # the noise of the samples is stream 0 of the same seed
_TINY = 1e-12


class Policy(Protocol):
    """What a federation's calibration policy says of the score."""

    @property
    def method(self) -> Method:
        """Which score."""

    @property
    def raps_free_ranks(self) -> int:
        """Ranks without a penalty."""

    @property
    def raps_penalty(self) -> float:
        """Per rank beyond those."""


@dataclass(frozen=True)
class ConformalScore:
    """Which score, and RAPS's two numbers."""

    method: Method = "raps"
    free_ranks: int = 3
    penalty: float = 0.02

    @classmethod
    def by(cls, policy: Policy) -> Self:
        """Return the score that the federation agreed on."""
        return cls(policy.method, policy.raps_free_ranks, policy.raps_penalty)

    def of_all_classes(self, probabilities: npt.ArrayLike, uniforms: npt.ArrayLike) -> Array:
        """Return s(c) [N, C] for each class; `probabilities` [N, C], `uniforms` [N], used by APS and RAPS."""
        shares = np.asarray(probabilities, np.float64)
        if self.method == "thr":
            return 1.0 - shares
        order = np.argsort(-shares, axis=1, kind="stable")
        ordered = np.take_along_axis(shares, order, axis=1)
        above = np.cumsum(ordered, axis=1) - ordered
        scores = above + np.asarray(uniforms, np.float64)[:, None] * ordered
        if self.method == "raps":
            scores = scores + self.penalty * np.maximum(
                0, np.arange(1, shares.shape[1] + 1) - self.free_ranks
            )
        unordered = np.empty_like(scores)
        np.put_along_axis(unordered, order, scores, axis=1)
        return unordered


@dataclass(frozen=True)
class Sketch:
    """What a site tells; see `pfedbayespt.protocol.calibrations` for the meaning of each member."""

    num_examples: int
    negative_log_likelihoods: tuple[float, ...]
    scores: tuple[float, ...]
    entropies: tuple[float, ...]
    error_shares: tuple[float, ...]


def make_sketch(
    model: PromptedClassifier,
    source: ContextSource,
    score: ConformalScore,
    temperatures: Sequence[float],
    *,
    num_samples: int = 16,
    max_points: int = 256,
) -> Sketch:
    """Return a site's sketch of the model as it stands; images are told apart by nothing but their scores.

    Raises:
        ValueError: there are no images.
    """
    evaluation = evaluate(model, source, num_samples=num_samples, per_image=True)
    if evaluation.per_image is None:
        raise AssertionError("per_image was asked for")
    uniforms = set_uniforms(image_seeds(0, range(len(source))))
    return sketch_of(
        evaluation.per_image.probabilities,
        source.labels.cpu().numpy(),
        uniforms,
        score,
        temperatures,
        max_points,
    )


def sketch_of(
    probabilities: npt.ArrayLike,
    labels: npt.NDArray[np.int64],
    uniforms: npt.ArrayLike,
    score: ConformalScore,
    temperatures: Sequence[float],
    max_points: int = 256,
) -> Sketch:
    """Return the sketch of N >= 1 answers; `probabilities` [N, C], `labels` [N], `uniforms` [N]."""
    shares = np.asarray(probabilities, np.float64)
    num_examples = len(labels)
    rows = np.arange(num_examples)
    total = -(shares * np.log(np.maximum(shares, _TINY))).sum(1)
    by_entropy = np.argsort(total, kind="stable")
    wrong = (shares.argmax(1) != labels)[by_entropy].astype(np.float64)
    ranks = _ranks(num_examples, max_points)
    scores = np.sort(score.of_all_classes(shares, uniforms)[rows, labels])
    return Sketch(
        num_examples=num_examples,
        negative_log_likelihoods=tuple(
            float(-np.log(np.maximum(tempered(shares, t)[rows, labels], _TINY)).mean()) for t in temperatures
        ),
        scores=tuple(map(float, scores[ranks - 1])),
        entropies=tuple(map(float, np.maximum(total[by_entropy][ranks - 1], 0.0))),
        error_shares=_slice_means(wrong, ranks),
    )


def tempered(probabilities: npt.ArrayLike, temperature: float) -> Array:
    """Return softmax(log p / T) [N, C]; a probability of zero counts as 1e-12."""
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def conformal_sets(
    scores: Array, probabilities: npt.ArrayLike, threshold: float | None
) -> npt.NDArray[np.bool_]:
    """Return which classes are in each set [N, C]; threshold None: all."""
    if threshold is None:
        return np.ones(scores.shape, bool)
    chosen = scores <= threshold
    chosen[np.arange(len(scores)), np.asarray(probabilities).argmax(1)] = True
    return chosen


def conformal_set(
    probabilities: npt.ArrayLike, score: ConformalScore, threshold: float | None, seed: int
) -> list[int]:
    """Return the positions of the classes in one image's set, most probable first; `probabilities` [C]."""
    shares = np.asarray(probabilities, np.float64)
    scores = score.of_all_classes(shares[None], set_uniforms([seed]))
    chosen = conformal_sets(scores, shares[None], threshold)[0]
    return [int(index) for index in np.argsort(-shares, kind="stable") if chosen[index]]


def set_uniforms(seeds: Sequence[int]) -> Array:
    """Return u for each seed (uint64)."""
    keys = (np.array([seed, _SET_STREAM], np.uint64) for seed in seeds)
    return np.array([np.random.Generator(np.random.Philox(key=key)).random() for key in keys])


def _ranks(num_examples: int, max_points: int) -> npt.NDArray[np.int64]:
    """Return ceil(i n / m) for i = 1..m, m the number of points."""
    points = min(num_examples, max_points)
    return -(-np.arange(1, points + 1) * num_examples // points)


def _slice_means(values: Array, ranks: npt.NDArray[np.int64]) -> tuple[float, ...]:
    """Return the mean of the values between each rank and the one before it."""
    starts = np.concatenate([[0], ranks[:-1]])
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return tuple(map(float, (sums[ranks] - sums[starts]) / (ranks - starts)))
