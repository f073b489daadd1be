"""The demo's measures against answers known by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfedbayespt.demo.measures import (
    area_under_risk_coverage,
    auroc,
    expected_calibration_error,
    risk_coverage,
)


def test_risk_grows_with_coverage_when_the_doubt_orders_the_errors_last() -> None:
    coverage, risk = risk_coverage(np.array([0.9, 0.1, 0.5, 0.2]), np.array([False, True, True, True]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == [0.0, 0.0, 0.0, 0.25]


def test_the_area_is_the_mean_risk() -> None:
    assert area_under_risk_coverage(np.array([0.0, 1.0]), np.array([False, True])) == pytest.approx(
        (1 + 0.5) / 2
    )


def test_auroc_counts_ties_half() -> None:
    scores = np.array([0.0, 1.0, 1.0, 2.0])
    positive = np.array([False, False, True, True])
    assert auroc(scores, positive) == pytest.approx((1 + 0.5 + 1 + 1) / 4)


def test_auroc_of_one_kind_alone_is_undefined() -> None:
    assert np.isnan(auroc(np.array([1.0, 2.0]), np.array([True, True])))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40))
def test_auroc_equals_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in rows], dtype=float)
    positive = np.array([flag for _, flag in rows])
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, is_positive in rows
        if is_positive
        for low, low_is_positive in rows
        if not low_is_positive
    ]
    if pairs:
        assert auroc(scores, positive) == pytest.approx(np.mean(pairs))


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    confidence = np.array([0.8, 0.8, 0.8, 0.8])
    assert expected_calibration_error(confidence, np.array([True, True, True, False])) == pytest.approx(0.05)
