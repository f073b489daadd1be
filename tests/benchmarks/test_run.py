"""What a run leaves behind: one training, and a row for each thing that is said of it."""

from pathlib import Path

import pytest
from catalogue import CONTROLS, LONG, METHODS
from choices import read_choices
from plans import IN_FULL, PLANS, PUBLISHED, QUICK
from run import chosen_for, made_with, methods_of, rows_of
from store import file_of, is_done, read_runs

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def test_a_refitted_head_is_a_row_of_the_same_training():
    assert rows_of("FedAvg-VPT", controls=False) == ["FedAvg-VPT", "FedAvg-VPT + refit"]
    assert "FedAvg-VPT + refit" not in METHODS


def test_controls_are_rows_where_they_are_asked_for():
    assert "ours, u off" in rows_of("pFedBayesPT", controls=True)
    assert "ours, u off" not in rows_of("pFedBayesPT", controls=False)


@pytest.mark.parametrize("plan", PUBLISHED.values(), ids=lambda plan: plan.name)
def test_what_is_published_is_what_is_run_where_nothing_is_named(plan):
    """So one command reproduces every table, whole."""
    made = {row for name in methods_of(plan) for row in rows_of(name, controls=plan.name == IN_FULL)}
    runs = read_runs(file_of(RESULTS, plan.name))
    assert runs.keys() == made
    assert all(set(by_seed) == set(range(5)) for by_seed in runs.values())


@pytest.mark.parametrize("plan", PUBLISHED.values(), ids=lambda plan: plan.name)
def test_a_site_that_never_trained_is_answered_where_there_is_a_shared_model(plan):
    personal = {name for name, method in METHODS.items() if method.personal}
    taken_away = {row for method in METHODS.values() for row in method.controls}
    for row, by_seed in read_runs(file_of(RESULTS, plan.name)).items():
        answered = row not in personal | taken_away
        assert {"unseen" in run for run in by_seed.values()} == {answered}
        strange = answered and plan.setting.held_out_domain is not None
        assert {"novelty" in run for run in by_seed.values()} == {strange}


def test_a_quick_run_has_every_rival_but_the_one_of_more_rounds_and_no_control():
    assert set(methods_of(QUICK)) == set(METHODS) - set(CONTROLS) - {LONG}


def test_every_method_can_be_named_on_the_command_line():
    assert not [name for name in METHODS if "," in name]


@pytest.mark.parametrize(
    "plan",
    [plan for plan in PLANS.values() if file_of(RESULTS, plan.name).exists()],
    ids=lambda plan: plan.name,
)
def test_published_runs_are_what_plans_catalogue_and_tuning_say_today(plan):
    chosen = read_choices(RESULTS / "tuning.csv")[plan.tuned_on or plan.name]
    runs = read_runs(file_of(RESULTS, plan.name))
    checked = set()
    for name, method in METHODS.items():
        for row in runs.keys() & rows_of(name, controls=True):
            parts = made_with(plan, method, *chosen_for(chosen, plan, name))
            assert all(is_done(runs, row, seed, parts) for seed in runs[row])
            checked.add(row)
    assert checked == set(runs)
