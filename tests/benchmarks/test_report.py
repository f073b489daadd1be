"""Tables are made of runs alone, and the comparison is with the best rival, never with a control."""

import csv

import numpy as np
import pytest
from plots import summed
from report import summarise, write_overall, write_tables

ACCURACY = {
    "pFedBayesPT": 0.5,
    "FedAvg-VPT": 0.4,
    "probe": 0.3,
    "ours with no noise": 0.6,
    "pFedBayesPT + refit": 0.45,
}


def run_of(method: str, accuracy: float, seed: int) -> dict:
    sites = [
        {"accuracy": accuracy + 0.01 * i, "nll": 2 - accuracy, "brier": 0.5, "ece": 0.1} for i in range(3)
    ]
    pooled = {"auroc_total": 0.7, "auroc_epistemic": 0.6, "aurc": 0.4}
    unseen = [{"accuracy": accuracy / 2, "nll": 3 - accuracy}]
    return {"method": method, "seed": seed, "sites": sites, "pooled": pooled, "unseen": unseen}


@pytest.fixture
def runs():
    return {name: {s: run_of(name, a, s) for s in range(5)} for name, a in ACCURACY.items()}


def test_the_lead_is_over_the_best_rival_and_what_is_ours_is_none(runs, tmp_path):
    summary = write_tables(runs, "easy", tmp_path)
    assert summary["best_rival"] == "FedAvg-VPT"
    assert summary["lead_over_best_rival"] == pytest.approx(0.1)
    assert summary["interval"] == pytest.approx([0.1, 0.1])
    assert set(summary["methods"]["probe"]) == {"accuracy", "nll", "ece", "seeds"}


def test_the_table_of_numbers_has_a_row_for_every_method_seed_and_site(runs, tmp_path):
    write_tables(runs, "easy", tmp_path)
    lines = [line for line in (tmp_path / "easy.csv").read_text().splitlines() if not line.startswith("#")]
    assert len(list(csv.DictReader(lines))) == 5 * 5 * 3


def test_pairs_are_compared_at_unseen_sites_too_and_refitted_with_refitted(runs, tmp_path):
    runs |= {"FedAvg-VPT + refit": {s: run_of("FedAvg-VPT + refit", 0.42, s) for s in range(5)}}
    write_tables(runs, "easy", tmp_path)
    rows = (tmp_path / "easy.md").read_text().split("| pair |")[1].splitlines()[2:]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert [row[:2] for row in cells] == [
        [f"{ours} minus {other}", where]
        for ours, other in (
            ("pFedBayesPT", "FedAvg-VPT"),
            ("pFedBayesPT", "FedAvg-VPT + refit"),
            ("pFedBayesPT + refit", "FedAvg-VPT + refit"),
        )
        for where in ("sites", "unseen sites")
    ]
    assert cells[0][2].startswith("+10.0 [+10.0, +10.0]")
    assert cells[1][2].startswith("+5.0")
    assert cells[4][3].startswith("-0.030")


def test_where_a_domain_is_held_out_the_doubt_about_it_has_a_table(runs, tmp_path):
    write_tables(runs, "easy", tmp_path)
    assert "AUROC for images" not in (tmp_path / "easy.md").read_text()
    for seed, run in runs["probe"].items():
        run["novelty"] = {"auroc_total": 0.6 + 0.01 * seed, "auroc_epistemic": 0.5}
    write_tables(runs, "easy", tmp_path)
    assert (
        (tmp_path / "easy.md")
        .read_text()
        .endswith("| epistemic |\n|---|---:|---:|\n| probe | 0.620 | 0.500 |\n")
    )


def test_methods_are_ranked_over_all_plans_without_the_controls(runs, tmp_path):
    write_overall({"a": runs, "b": runs, "not run yet": {}}, tmp_path / "overall.md")
    ranking, leads = (tmp_path / "overall.md").read_text().split("| setting |")
    rows = [line for line in ranking.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert cells[0] == ["method", "a", "b", "rank, accuracy", "rank, NLL"]
    assert cells[1] == ["pFedBayesPT", "51.0 / 1.500", "51.0 / 1.500", "1.0", "1.0"]
    assert [row[0] for row in cells[1:]] == [
        "pFedBayesPT",
        "pFedBayesPT + refit",
        "FedAvg-VPT",
        "probe",
        "ours with no noise",
    ]
    assert [row[-2:] for row in cells[2:4]] == [["1.0", "1.0"], ["2.0", "2.0"]]
    assert cells[-1][-2:] == ["", ""]
    assert "| a | pFedBayesPT minus FedAvg-VPT | +10.0 [+10.0, +10.0]" in leads
    assert leads.count("| b |") == 1


def test_what_one_plan_alone_has_is_in_its_own_table(runs, tmp_path):
    more = runs | {"Ditto": {0: run_of("Ditto", 0.2, 0)}}
    write_tables(more, "a", tmp_path)
    write_overall({"a": more, "b": runs}, tmp_path / "overall.md")
    assert "| Ditto |" in (tmp_path / "a.md").read_text()
    assert "Ditto" not in (tmp_path / "overall.md").read_text()


def test_one_plan_alone_has_no_table_of_all(runs, tmp_path):
    write_overall({"a": runs, "not run yet": {}}, tmp_path / "overall.md")
    assert not (tmp_path / "overall.md").exists()


def test_a_summary_knows_the_worst_site_and_the_unseen_ones(runs):
    row = summarise(runs["probe"])
    assert row["worst_site"] == pytest.approx(0.3)
    assert row["unseen"] == pytest.approx(0.15)
    assert np.isnan(summarise({0: run_of("x", 0.1, 0) | {"unseen": []}})["unseen"])


def test_a_run_without_images_of_the_last_domain_adds_up_with_the_others():
    tables = {0: [[1, 1], [2, 1]], 1: [[3, 2]]}
    runs = {"probe": {seed: {"curves": {"domains": table}} for seed, table in tables.items()}}
    assert summed(runs, "probe", "domains").tolist() == [[4, 3], [2, 1]]
