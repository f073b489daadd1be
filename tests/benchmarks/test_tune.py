"""One tuning of a small plan: which tries it makes, and what a run then takes from them."""

import json
from dataclasses import replace

import pytest
import run
import tune
from catalogue import METHODS
from choices import COLUMNS, DEALS, RIDGE_CANDIDATES, Choice, read_choices, read_rows, read_tries
from plans import Plan
from store import read_runs
from tests.benchmarks.fleets import POSTERIOR, SETTING

from pfedbayespt.model.config import InsertionConfig

PLAN = Plan("small", "random", SETTING, InsertionConfig("prefix", 2, 2), num_samples=2, posterior=POSTERIOR)
ONLY = Choice(num_rounds=1)


@pytest.fixture
def tries(encoded, tmp_path, monkeypatch):
    """The table of a tuning in which a trained method has one candidate."""
    monkeypatch.setitem(METHODS, "pFedBayesPT", replace(METHODS["pFedBayesPT"], candidates=(ONLY,)))
    monkeypatch.setattr(run, "MID_BLOCK", encoded.insertion.mid_block)
    file = tmp_path / "tuning.csv"
    tune.tune(encoded, PLAN, ["pFedBayesPT", "ours with no noise"], file)
    return file


def test_a_head_fitted_anew_is_tuned_on_every_deal_over_the_methods_best_choice(tries):
    made = read_tries(tries)
    assert set(made) == {("small", "pFedBayesPT"), ("small", "pFedBayesPT + refit")}
    assert set(made["small", "pFedBayesPT"]) == {ONLY}
    refitted = made["small", "pFedBayesPT + refit"]
    assert set(refitted) == set(RIDGE_CANDIDATES)
    assert all(set(of) == set(DEALS) for of in refitted.values())
    assert len({nll for of in refitted.values() for nll in of.values()}) > len(RIDGE_CANDIDATES)


def test_a_tuning_goes_on_where_it_was_stopped(encoded, tries):
    whole = tries.read_text()
    rows = whole.splitlines(keepends=True)
    tries.write_text("".join(rows[:-2]))
    tune.tune(encoded, PLAN, ["pFedBayesPT"], tries)
    assert tries.read_text() == whole
    assert tuple(read_rows(tries)[0]) == COLUMNS


def test_a_control_has_the_rates_of_the_method_and_the_head_fitted_anew_has_its_own(encoded, tries, tmp_path):
    chosen = read_choices(tries)["small"]
    file = tmp_path / "small.jsonl"
    run.run_all(encoded, PLAN, ["ours with no noise"], range(1), file, chosen, controls=False)
    result = read_runs(file)[METHODS["ours with no noise"].refitted][0]
    assert Choice(**result["choice"]) == chosen["pFedBayesPT"]
    assert Choice(**result["refit"]) == chosen["pFedBayesPT + refit"]


def test_only_what_has_not_been_run_is_added(encoded, tries, tmp_path):
    chosen = read_choices(tries)["small"]
    file = tmp_path / "small.jsonl"
    for controls in (False, False, True):
        run.run_all(encoded, PLAN, ["pFedBayesPT"], range(1), file, chosen, controls=controls)
    rows = [json.loads(line)["method"] for line in file.read_text().splitlines()]
    assert rows == run.rows_of("pFedBayesPT", controls=True)


def test_a_run_of_a_method_whose_refit_has_not_been_tuned_says_so(encoded, tries, tmp_path):
    chosen = {"pFedBayesPT": read_choices(tries)["small"]["pFedBayesPT"]}
    with pytest.raises(SystemExit, match=r"pFedBayesPT \+ refit is not tuned for small"):
        run.run_all(
            encoded,
            replace(PLAN, num_samples=1),
            ["pFedBayesPT"],
            range(1),
            tmp_path / "small.jsonl",
            chosen,
            controls=False,
        )
