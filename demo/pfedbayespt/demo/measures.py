"""How good the answers are, and how good their doubt is.

risk(c)  error rate among the share c of answers with the least uncertainty (Geifman & El-Yaniv 2017)
AURC     mean of risk(c) over c = 1/N, ..., 1: lower is better
AUROC    probability that a random positive scores above a random negative, ties counted half
"""

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def risk_coverage(uncertainty: Vector, correct: Flags) -> tuple[Vector, Vector]:
    """Return coverage c = 1/N..1 and the risk at each, answering the least uncertain first."""
    order = np.argsort(uncertainty, kind="stable")
    counts = np.arange(1, len(order) + 1)
    return counts / len(order), np.cumsum(~correct[order]) / counts


def area_under_risk_coverage(uncertainty: Vector, correct: Flags) -> float:
    """Return the AURC."""
    return float(risk_coverage(uncertainty, correct)[1].mean())


def auroc(scores: Vector, positive: Flags) -> float:
    """Return the AUROC of `scores` for telling positives; NaN when one kind is absent."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    values, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(mean_rank[inverse][positive].sum()) if len(values) else 0.0
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def expected_calibration_error(confidence: Vector, correct: Flags, num_bins: int = 15) -> float:
    """Return sum over equal-width confidence bins of share x |accuracy - mean confidence|."""
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    shares = [
        (bins == index).mean() * abs(correct[bins == index].mean() - confidence[bins == index].mean())
        for index in np.unique(bins)
    ]
    return float(sum(shares))
