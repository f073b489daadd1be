"""Pooling sketches into a calibration: a function of the sketches alone, in the order of the sites' ids.

    temperature   the T that minimises sum_i n_i nll_i(T): the best of the grid, refined by a parabola in log T
    threshold     the smallest score below or at which at least ceil((N + 1) coverage) of N pooled examples lie
    abstain       the largest entropy below or at which the share of errors is at most the target risk, or the
                  quantile that answers the asked-for share

Every point of a site's sketch stands for n/m of its examples. The threshold's coverage is guaranteed on average
over images drawn as the pooled ones were, and for no others. The rule for abstaining is fitted, not guaranteed.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

import numpy as np
import numpy.typing as npt

from pfedbayespt.protocol import AbstainRule, Calibration, CalibrationPolicy, CalibrationSketch, Threshold
from pfedbayespt.protocol.calibrations import TEMPERATURES

Array = npt.NDArray[np.float64]
MIN_SITE_EXAMPLES: Final = 100
"""A site with fewer gets the pooled threshold: its own would be too uncertain to be worth anything."""


def pool(
    version_number: int, policy: CalibrationPolicy, sketches: Mapping[str, CalibrationSketch]
) -> Calibration:
    """Return the calibration that the sketches of one or more sites, by site id, lead to."""
    in_order = [sketches[site_id] for site_id in sorted(sketches)]
    nlls = _pooled_nlls(in_order)
    log_temperature, nll_after = _minimum(np.log(TEMPERATURES), nlls)
    return Calibration(
        version_number=version_number,
        policy=policy,
        num_examples=sum(sketch.num_examples for sketch in in_order),
        site_ids=tuple(sorted(sketches)),
        temperature=math.exp(log_temperature),
        nll_before=float(nlls[TEMPERATURES.index(1.0)]),
        nll_after=nll_after,
        threshold=_threshold(in_order, policy.target_coverage),
        site_thresholds={
            site_id: _threshold([sketches[site_id]], policy.target_coverage)
            for site_id in sorted(sketches)
            if sketches[site_id].num_examples >= MIN_SITE_EXAMPLES
        },
        abstain=_abstain(in_order, policy),
    )


def _pooled_nlls(sketches: list[CalibrationSketch]) -> Array:
    counts = np.array([sketch.num_examples for sketch in sketches], np.float64)
    nlls = np.array([sketch.negative_log_likelihoods for sketch in sketches], np.float64)
    pooled: Array = (counts[:, None] * nlls).sum(0) / counts.sum()
    return pooled


def _minimum(places: Array, values: Array) -> tuple[float, float]:
    """Return where the parabola through the smallest value and its neighbours is lowest, and how low."""
    best = int(values.argmin())
    if best in {0, len(values) - 1}:
        return float(places[best]), float(values[best])
    left, middle, right = (float(value) for value in values[best - 1 : best + 2])
    curvature = left - 2 * middle + right
    if curvature <= 0:
        return float(places[best]), middle
    step = (left - right) / (2 * curvature)
    spacing = float(places[best + 1] - places[best])
    return float(places[best]) + step * spacing, middle - (left - right) * step / 4


def _threshold(sketches: list[CalibrationSketch], coverage: float) -> Threshold:
    num_examples = sum(sketch.num_examples for sketch in sketches)
    # In exact arithmetic: 0.9 * (N + 1) must not become a little more than a whole number.
    needed = math.ceil(Fraction(str(coverage)) * (num_examples + 1))
    scores, weights = _points([(sketch.scores, sketch.num_examples) for sketch in sketches])
    reached = np.cumsum(weights) >= needed - 1e-6
    score = float(scores[reached.argmax()]) if reached.any() else None
    return Threshold(num_examples=num_examples, score=score)


def _abstain(sketches: list[CalibrationSketch], policy: CalibrationPolicy) -> AbstainRule | None:
    if policy.target_risk is None and policy.answered_share is None:
        return None
    order, weights = _order([(sketch.entropies, sketch.num_examples) for sketch in sketches])
    entropies = np.concatenate([sketch.entropies for sketch in sketches])[order]
    errors = np.concatenate([sketch.error_shares for sketch in sketches])[order] * weights
    answered, wrong = np.cumsum(weights), np.cumsum(errors)
    if policy.answered_share is not None:
        allowed = answered <= policy.answered_share * answered[-1] + 1e-6
    else:
        allowed = wrong / answered <= (policy.target_risk or 0.0)
    if not allowed.any():
        return AbstainRule(total_entropy_nats=None, expected_risk=0.0, expected_answered_share=0.0)
    last = int(np.flatnonzero(allowed)[-1])
    return AbstainRule(
        total_entropy_nats=float(entropies[last]),
        expected_risk=min(float(wrong[last] / answered[last]), 1.0),
        expected_answered_share=min(float(answered[last] / answered[-1]), 1.0),
    )


def _points(parts: list[tuple[tuple[float, ...], int]]) -> tuple[Array, Array]:
    order, weights = _order(parts)
    return np.concatenate([values for values, _ in parts])[order], weights


def _order(parts: list[tuple[tuple[float, ...], int]]) -> tuple[npt.NDArray[np.int64], Array]:
    """Return the order of all points by value, and in it the examples that each stands for."""
    values = np.concatenate([values for values, _ in parts])
    weights = np.concatenate([np.full(len(values), count / len(values)) for values, count in parts])
    order = np.argsort(values, kind="stable")
    return order, weights[order]
