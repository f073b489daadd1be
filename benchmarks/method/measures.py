"""What is measured on each site's test images, and how methods are compared over (seed, site) pairs."""

import math

import numpy as np
from fleet import Answers
from scipy.stats import t

_BINS = 15


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
    wrong, total = p.argmax(1) != y, _entropy(p)
    return {
        "ece": ece(p, y),
        "auroc_total": auroc(total, wrong),
        "auroc_epistemic": auroc(answers.epistemic.flatten().double().numpy(), wrong),
        "aurc": float(risks(total, wrong).mean()),
    }


def novelty_measures(known: Answers, strange: Answers) -> dict[str, float]:
    """Return how well total and epistemic entropy tell the images of `strange` from those of `known`."""
    p, epistemic = (
        np.concatenate([getattr(of, part).double().flatten(0, 1).numpy() for of in (known, strange)])
        for part in ("probabilities", "epistemic")
    )
    is_strange = np.arange(len(p)) >= known.labels.numel()
    return {"auroc_total": auroc(_entropy(p), is_strange), "auroc_epistemic": auroc(epistemic, is_strange)}


def curves(answers: Answers) -> dict[str, list[list[float]]]:
    """Return what the plots need, over all sites.

    reliability: per bin of confidence [images, sum of confidence, right]; risk: [coverage, share of errors] when
    the images of highest total entropy are left out; domains: per domain [images, right].
    """
    p = answers.probabilities.double().flatten(0, 1).numpy()
    y, domains = answers.labels.flatten().numpy(), answers.domains.flatten().numpy()
    confidence, right = p.max(1), p.argmax(1) == y
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    risk = risks(_entropy(p), ~right)
    kept = np.linspace(0.05, 1.0, 20)
    return {
        "reliability": [
            [int((bins == b).sum()), float(confidence[bins == b].sum()), int(right[bins == b].sum())]
            for b in range(_BINS)
        ],
        "risk": [[float(share), float(risk[max(0, round(share * len(y)) - 1)])] for share in kept],
        "domains": [
            [int((domains == d).sum()), int(right[domains == d].sum())] for d in range(domains.max() + 1)
        ],
    }


def risks(doubt: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return the share of errors among the 1, 2, ... least doubtful images."""
    order = np.argsort(doubt, kind="stable")
    return wrong[order].cumsum() / np.arange(1, len(wrong) + 1)


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


def paired(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Compare [seeds, sites] measures: mean difference, 95 % interval and p-value, effect size.

    Sites of one seed share a global model and are no independent evidence, so interval and p-value are of Student's
    t over the seeds' mean differences; of one seed alone over its sites, which flatters. The effect size is the
    mean over the standard deviation of all pairs.
    """
    difference = ours - theirs
    mean = difference.mean()
    evidence = difference.mean(1) if len(difference) > 1 else difference[0]
    low = high = p_value = math.nan
    if len(evidence) > 1:
        error = evidence.std(ddof=1) / math.sqrt(len(evidence))
        low, high = mean + error * t.ppf([0.025, 0.975], len(evidence) - 1)
        p_value = 2 * t.sf(abs(mean) / error, len(evidence) - 1) if error > 0 else float(mean == 0)
    spread = difference.std(ddof=1) if difference.size > 1 else 0.0
    effect = mean / spread if spread > 0 else 0.0
    numbers = {"mean": mean, "low": low, "high": high, "effect": effect, "p": p_value}
    return {name: float(value) for name, value in numbers.items()}


def _entropy(p: np.ndarray) -> np.ndarray:
    """Return the entropy of each row, in nats."""
    entropy: np.ndarray = -(p * np.log(np.maximum(p, 1e-12))).sum(1)
    return entropy
