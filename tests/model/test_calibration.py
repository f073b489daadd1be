"""Temperature, conformal scores and sets, and sketches, against answers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfedbayespt.model.calibration import (
    ConformalScore,
    conformal_sets,
    set_uniforms,
    sketch_of,
    tempered,
)
from pfedbayespt.model.prediction import draw_noise

SHARES = np.array([[0.1, 0.5, 0.4], [0.2, 0.2, 0.6]])
HALVES = np.array([0.5, 0.5])


def distributions(num_classes: int = 5) -> st.SearchStrategy[list[float]]:
    weights = st.lists(st.floats(1e-3, 1), min_size=num_classes, max_size=num_classes)
    return weights.map(lambda row: [value / sum(row) for value in row])


def test_thr_is_one_minus_the_probability() -> None:
    scores = ConformalScore("thr").of_all_classes(SHARES, HALVES)
    assert scores == pytest.approx(1 - SHARES)


def test_aps_sums_what_ranks_above_and_a_random_share_of_its_own() -> None:
    scores = ConformalScore("aps").of_all_classes(SHARES, np.array([0.5, 0.0]))
    assert scores[0] == pytest.approx([0.9 + 0.05, 0.25, 0.5 + 0.2])
    assert scores[1] == pytest.approx([0.6, 0.6 + 0.2, 0.0])  # ties in the order of the classes


def test_raps_adds_a_penalty_for_each_rank_beyond_the_free_ones() -> None:
    aps = ConformalScore("aps").of_all_classes(SHARES, HALVES)
    raps = ConformalScore("raps", free_ranks=1, penalty=0.1).of_all_classes(SHARES, HALVES)
    assert (raps - aps)[0] == pytest.approx([0.2, 0.0, 0.1])
    free = ConformalScore("raps", free_ranks=3, penalty=0.1).of_all_classes(SHARES, HALVES)
    assert np.array_equal(free, aps)


def test_a_set_holds_what_scores_low_enough_and_always_the_most_probable_class() -> None:
    scores = ConformalScore("thr").of_all_classes(SHARES, HALVES)
    assert conformal_sets(scores, SHARES, 0.6).tolist() == [[False, True, True], [False, False, True]]
    assert conformal_sets(scores, SHARES, 0.0).tolist() == [[False, True, False], [False, False, True]]
    assert conformal_sets(scores, SHARES, None).all()


@pytest.mark.parametrize("method", ["thr", "aps", "raps"])
def test_coverage_over_random_splits_is_the_target_however_wrong_the_probabilities(method: str) -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([0.3] * 10, 4000)
    truth = tempered(shares, 2.5)  # labels are much less certain than the probabilities say
    labels = (rng.random((4000, 1)) > truth.cumsum(1)).sum(1).clip(max=9)
    scores = ConformalScore(method).of_all_classes(shares, rng.random(4000))  # type: ignore[arg-type]
    coverages = []
    for _ in range(40):
        order = rng.permutation(4000)
        calibration, test = order[:2000], order[2000:]
        quantile = np.sort(scores[calibration, labels[calibration]])[math.ceil(0.9 * 2001) - 1]
        sets = conformal_sets(scores[test], shares[test], float(quantile))
        coverages.append(sets[np.arange(2000), labels[test]].mean())
    assert np.mean(coverages) == pytest.approx(0.9, abs=0.005)


def test_temperature_one_changes_nothing_and_a_high_one_flattens() -> None:
    assert tempered(SHARES, 1.0) == pytest.approx(SHARES)
    assert tempered(SHARES, 1e6) == pytest.approx(np.full((2, 3), 1 / 3), abs=1e-5)
    assert tempered([[0.2, 0.8]], 0.5) == pytest.approx(np.array([[0.04, 0.64]]) / 0.68)
    assert tempered([[1.0, 0.0]], 2.0) == pytest.approx(np.array([[1 - 1e-6, 1e-6]]), rel=1e-3)


@given(distributions(), st.floats(0.25, 4))
def test_temperature_keeps_the_order_and_the_sum(row: list[float], temperature: float) -> None:
    (calibrated,) = tempered([row], temperature)
    assert calibrated.sum() == pytest.approx(1)
    assert np.argsort(calibrated, kind="stable")[-1] in np.flatnonzero(np.array(row) == max(row))


def test_a_small_sketch_is_the_scores_themselves() -> None:
    labels = np.array([1, 0])
    sketch = sketch_of(SHARES, labels, HALVES, ConformalScore("thr"), [1.0, 2.0])
    assert sketch.num_examples == 2
    assert sketch.scores == pytest.approx((0.5, 0.8))
    entropies = [-sum(p * math.log(p) for p in row) for row in SHARES]
    assert sketch.entropies == pytest.approx(sorted(entropies))
    assert sketch.error_shares == (0.0, 1.0) if entropies[0] < entropies[1] else (1.0, 0.0)
    assert sketch.negative_log_likelihoods[0] == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2)
    assert sketch.negative_log_likelihoods[1] == pytest.approx(
        -np.log(tempered(SHARES, 2.0)[[0, 1], labels]).mean()
    )


def test_a_large_sketch_holds_evenly_spaced_order_statistics_and_shares_of_errors() -> None:
    rng = np.random.default_rng(1)
    shares, labels = rng.dirichlet([0.5] * 4, 1000), rng.integers(0, 4, 1000)
    sketch = sketch_of(shares, labels, rng.random(1000), ConformalScore("thr"), [1.0], max_points=8)
    own = np.sort(1 - shares[np.arange(1000), labels])
    assert sketch.scores == pytest.approx(own[[124, 249, 374, 499, 624, 749, 874, 999]])
    assert np.mean(sketch.error_shares) == pytest.approx((shares.argmax(1) != labels).mean())


@given(st.integers(1, 300), st.integers(1, 40))
def test_the_points_of_a_sketch_stand_for_every_example(num_examples: int, max_points: int) -> None:
    rng = np.random.default_rng(num_examples)
    shares, labels = rng.dirichlet([1.0] * 3, num_examples), rng.integers(0, 3, num_examples)
    sketch = sketch_of(
        shares, labels, np.zeros(num_examples), ConformalScore("aps"), [1.0], max_points=max_points
    )
    assert len(sketch.scores) == len(sketch.entropies) == len(sketch.error_shares)
    assert len(sketch.scores) == min(num_examples, max_points)
    assert list(sketch.scores) == sorted(sketch.scores)


def test_the_uniforms_are_a_stream_of_their_own_under_each_seed() -> None:
    assert set_uniforms([5, 6, 5])[0] == set_uniforms([5])[0] == set_uniforms([1, 5])[1]
    uniforms = set_uniforms(range(4000))
    assert uniforms.mean() == pytest.approx(0.5, abs=0.02)
    noise = draw_noise(range(4000), 1, 1)[:, 0, 0].numpy()
    assert abs(np.corrcoef(uniforms, noise)[0, 1]) < 0.05
