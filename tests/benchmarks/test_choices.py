"""Every candidate meets the first deal, the best of them the others, and the mean over deals decides."""

import pytest
from choices import CANDIDATES, COLUMNS, DEALS, NUM_FINALISTS, Choice, due, ranked, read_choices, row_of
from tune import candidates

FIRST, SECOND = DEALS
CHOICES = [Choice(head_learning_rate=rate) for rate in (1e-4, 2e-4, 3e-4, 4e-4)]


def table(*tries: tuple[Choice, int, float]) -> str:
    rows = (row_of("a", "probe", deal, choice, (0.5, nll)) for choice, deal, nll in tries)
    return "\n".join(",".join(map(str, row)) for row in ([*COLUMNS], *rows)) + "\n"


def test_the_least_mean_nll_wins_among_those_that_met_every_deal(tmp_path):
    lucky, steady, untried, _ = CHOICES
    file = tmp_path / "tuning.csv"
    nlls = {lucky: (1.0, 2.0), steady: (1.2, 1.5)}
    tries = [(choice, deal, nll) for choice, of in nlls.items() for deal, nll in zip(DEALS, of, strict=True)]
    file.write_text("# a comment\n" + table(*tries, (untried, FIRST, 0.5)))
    assert read_choices(file) == {"a": {"probe": steady}}


def test_without_a_table_of_tries_nothing_is_chosen(tmp_path):
    assert read_choices(tmp_path / "absent.csv") == {}


def test_all_candidates_meet_the_first_deal_and_the_best_of_them_the_others():
    assert due(CHOICES, {}) == [(choice, FIRST) for choice in CHOICES]
    tries = {choice: {FIRST: float(-place)} for place, choice in enumerate(CHOICES)}
    finalists = [*reversed(CHOICES)][:NUM_FINALISTS]
    assert due(CHOICES, tries) == [(choice, SECOND) for choice in finalists]
    for choice in finalists:
        tries[choice] |= {SECOND: 1.0}
    assert due(CHOICES, tries) == []
    assert ranked(tries)[0] == CHOICES[-1]


@pytest.mark.parametrize("name", ["Fed3R", "probe", "pFedBayesPT", "ours with no noise"])
def test_no_candidate_is_tried_twice(name):
    assert len(set(candidates(name))) == len(candidates(name))
    assert bool(candidates(name)) == (name != "ours with no noise")


@pytest.mark.parametrize("trained", ["probe", "pFedBayesPT", "Ditto"])
def test_whatever_is_trained_has_as_many_tries(trained):
    assert len(candidates(trained)) == len(CANDIDATES) == len(set(CANDIDATES))
