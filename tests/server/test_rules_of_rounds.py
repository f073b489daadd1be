"""Weights, the gate, the cohort: pure rules against known answers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pfedbayespt.protocol import RoundPolicy
from pfedbayespt.server.rounds.gate import reason_to_hold
from pfedbayespt.server.rounds.service import choose_cohort
from pfedbayespt.server.rounds.weights import update_weights

COUNTS = st.lists(st.integers(1, 10**9), min_size=1, max_size=50)


def test_weights_are_shares_of_examples() -> None:
    assert update_weights([1, 1, 2], 3.0) == [0.25, 0.25, 0.5]


def test_one_huge_claim_is_capped_at_the_ratio_times_the_median() -> None:
    assert update_weights([10, 10, 10**9], 3.0) == [0.2, 0.2, 0.6]


def test_without_a_cap_statistics_pool_exactly() -> None:
    assert update_weights([1, 999]) == [0.001, 0.999]


@given(COUNTS, st.floats(1.0, 100.0))
def test_weights_sum_to_one_and_keep_the_order_of_the_claims(counts: list[int], ratio: float) -> None:
    weights = update_weights(counts, ratio)
    assert math.fsum(weights) == pytest.approx(1.0, abs=1e-12)
    assert all(0.0 < weight <= 1.0 for weight in weights)
    by_count = [weight for _, weight in sorted(zip(counts, weights, strict=True))]
    assert by_count == sorted(by_count)


@given(COUNTS, st.integers(1, 1000))
def test_weights_do_not_change_when_every_claim_is_multiplied(counts: list[int], factor: int) -> None:
    multiplied = update_weights([count * factor for count in counts], 3.0)
    assert multiplied == pytest.approx(update_weights(counts, 3.0), rel=1e-12)


GATE = RoundPolicy(max_accuracy_drop=0.1)


@pytest.mark.parametrize(
    ("candidate", "base", "is_held"),
    [
        ({"a": 0.5}, {"a": 0.5}, False),
        ({"a": 0.7}, {"a": 0.8}, False),  # a drop of exactly the limit
        ({"a": 0.69}, {"a": 0.8}, True),
        ({"a": 0.9, "b": 0.1}, {"a": 0.1, "b": 0.9}, True),  # a gain here pays for no loss there
        ({"a": 0.1}, {"b": 0.9}, False),  # nothing to compare with
        ({"a": 0.1}, {}, False),
        ({}, {"a": 0.9}, True),  # silence
        ({}, {}, True),
    ],
)
def test_the_gate_compares_site_by_site(
    candidate: dict[str, float], base: dict[str, float], is_held: bool
) -> None:
    assert (reason_to_hold(GATE, candidate, base) is not None) == is_held


def test_without_a_limit_everything_passes() -> None:
    assert reason_to_hold(RoundPolicy(), {"a": 0.0}, {"a": 1.0}) is None
    assert reason_to_hold(RoundPolicy(), {}, {}) is None


SITES = [f"sit_{number:02}" for number in range(20)]


def test_without_a_size_everybody_is_asked() -> None:
    assert choose_cohort("rnd_1", SITES, RoundPolicy()) == SITES


def test_more_sites_are_asked_than_are_needed() -> None:
    policy = RoundPolicy(cohort_size=5, over_select_ratio=1.5)
    assert len(choose_cohort("rnd_1", SITES, policy)) == 8


def test_a_cohort_can_be_drawn_again_and_differs_between_rounds() -> None:
    policy = RoundPolicy(cohort_size=5)
    cohorts = {tuple(choose_cohort(f"rnd_{number}", SITES, policy)) for number in range(10)}
    assert len(cohorts) > 5
    assert choose_cohort("rnd_1", SITES, policy) == choose_cohort("rnd_1", SITES[::-1], policy)


def test_every_site_is_drawn_about_as_often() -> None:
    policy = RoundPolicy(cohort_size=5)
    drawn = [site for number in range(400) for site in choose_cohort(f"rnd_{number}", SITES, policy)]
    # 400 draws of 5 of 20: 100 each on average, standard deviation sqrt(400 * 1/4 * 3/4) = 8.7; six of them.
    assert all(48 <= drawn.count(site) <= 152 for site in SITES)
