"""What is measured on each site's test images, and how methods are compared over (seed, site) pairs."""

import math

import numpy as np
from fleet import Answers

_BINS = 15
_RESAMPLES = 4000


def site_measures(answers: Answers) -> list[dict[str, float]]:
    """Return accuracy, NLL, Brier score and ECE of every site, in the order of sites."""
    rows = []
    for p, y in zip(answers.probabilities.double().numpy(), answers.labels.numpy(), strict=True):
        own = p[np.arange(len(y)), y]
        rows.append(
            {
                "accuracy": float((p.argmax(1) == y).mean()),
                "nll": float(-np.log(np.maximum(own, 1e-12)).mean()),
                "brier": float((np.square(p).sum(1) - 2 * own + 1).mean()),
                "ece": ece(p, y),
            }
        )
    return rows


def pooled_measures(answers: Answers) -> dict[str, float]:
    """Return ECE over all sites, and how well total and epistemic entropy find errors."""
    p = answers.probabilities.double().flatten(0, 1).numpy()
    y = answers.labels.flatten().numpy()
    wrong = p.argmax(1) != y
    total = -(p * np.log(np.maximum(p, 1e-12))).sum(1)
    return {
        "ece": ece(p, y),
        "auroc_total": auroc(total, wrong),
        "auroc_epistemic": auroc(answers.epistemic.flatten().double().numpy(), wrong),
        "aurc": float((wrong[np.argsort(total, kind="stable")].cumsum() / np.arange(1, len(y) + 1)).mean()),
    }


def ece(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error of the top class, in 15 equal bins."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = [abs(confidence[bins == b].sum() - right[bins == b].sum()) for b in range(_BINS)]
    return float(sum(gaps) / len(labels))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Return the probability that a positive scores above a negative; ties count half."""
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if not num_positive or not num_negative:
        return math.nan
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse]
    wins = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(wins / (num_positive * num_negative))


def paired(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Compare [seeds, sites] measures: mean difference, 95 % bootstrap interval over (seed, site), effect size.

    Seeds are resampled first, then sites within them: sites of one seed share a global model, so they are no
    independent evidence.
    """
    difference = ours - theirs
    rng = np.random.default_rng(seed)
    seeds, sites = difference.shape
    picked = difference[rng.integers(seeds, size=(_RESAMPLES, seeds))]
    columns = rng.integers(sites, size=(_RESAMPLES, seeds, sites))
    means = np.take_along_axis(picked, columns, axis=2).mean((1, 2))
    low, high = np.quantile(means, [0.025, 0.975])
    spread = difference.std(ddof=1) if difference.size > 1 else 0.0
    effect = difference.mean() / spread if spread > 0 else 0.0
    return {"mean": float(difference.mean()), "low": float(low), "high": float(high), "effect": float(effect)}
