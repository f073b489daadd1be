"""Simulations: the same specification at a real coordinator on Ray and in the process alone, with the same end."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cli.conftest import Run

from pfedbayespt.protocol import FederationSpecification, RoundStatus, RoundTask, TrainingSpecification
from pfedbayespt.simulation import in_process
from pfedbayespt.simulation.population import Population
from pfedbayespt.simulation.synthetic import blank_parameters, specification

INITIAL = blank_parameters(0.001)
SHAPES = {name: array.shape for name, array in INITIAL.items()}
FAST = TrainingSpecification(learning_rate=0.05, local_epochs=1)


def terms(**policy: Any) -> FederationSpecification:
    agreed = specification(2, **({"num_rounds": 4, "evaluate": True} | policy))
    return agreed.model_copy(update={"training": FAST})


def weighted_optimum(population: Population, num_sites: int, name: str) -> Any:
    """Return the mean of the sites' optima by their numbers of examples."""
    counts = [population.num_examples(site) for site in range(num_sites)]
    return np.average([population.optimum(site)[name] for site in range(num_sites)], axis=0, weights=counts)


def test_statistics_pool_exactly_in_the_first_round() -> None:
    population = Population(SHAPES, FAST)
    outcome = in_process.simulate(terms(), INITIAL, population, 7)
    expected = weighted_optimum(population, 7, "statistics.mean")
    np.testing.assert_allclose(outcome.parameters["statistics.mean"], expected, atol=1e-6)
    assert [row.task for row in outcome.rounds] == [RoundTask.STATISTICS] + [RoundTask.TRAINING] * 4


def test_sites_that_agree_meet_at_their_optimum_as_fast_as_the_mean_of_their_steps() -> None:
    """All pull to the same theta*, so after r rounds what is left of the way is (1 - sum_i w_i reach_i)^r."""
    population = Population(SHAPES, FAST, heterogeneity=0.0)
    outcome = in_process.simulate(terms(max_weight_ratio=1e9), INITIAL, population, 5)
    counts = np.array([population.num_examples(site) for site in range(5)], float)
    reach = 1.0 - 0.95 ** np.ceil(counts / FAST.batch_size)
    left = (1.0 - np.average(reach, weights=counts)) ** 4
    optimum = population.optimum(0)["generator.0"]
    np.testing.assert_allclose(outcome.parameters["generator.0"], (1.0 - left) * optimum, atol=1e-6)
    losses = [row.loss for row in outcome.rounds if row.loss is not None]
    assert losses == sorted(losses, reverse=True)


def test_a_cohort_of_limited_size_is_what_takes_part() -> None:
    outcome = in_process.simulate(terms(cohort_size=3), INITIAL, Population(SHAPES, FAST), 9)
    assert {row.updates for row in outcome.rounds} == {3}


def test_a_federation_whose_candidates_are_all_held_stops_and_keeps_its_version() -> None:
    """Far optima and full steps: what helps one site costs another more accuracy than is allowed."""
    far = Population(SHAPES, FAST, heterogeneity=20.0)
    outcome = in_process.simulate(
        terms(max_accuracy_drop=0.0, num_rounds=20, min_sites_to_start=2), INITIAL, far, 6
    )
    held = [row for row in outcome.rounds if row.status is RoundStatus.HELD]
    assert len(held) >= 3
    assert [row.status for row in outcome.rounds[-3:]] == [RoundStatus.HELD] * 3
    assert len(outcome.rounds) < 21


@pytest.fixture
def file(tmp_path: Path) -> Path:
    content = terms().model_dump(mode="json")
    content["backbone"].pop("weights_digest")
    path = tmp_path / "terms.json"
    path.write_text(json.dumps(content))
    return path


def last_line(output: str) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(output.splitlines()[-1])
    return summary


def column(output: str, name: str) -> list[str]:
    header, *rows = [line.split("  ") for line in output.splitlines()[:-1]]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in (header, *rows)]
    return [row[cells[0].index(name)] for row in cells[1:]]


@pytest.mark.e2e
def test_sites_in_ray_tasks_at_a_real_coordinator_end_where_the_rounds_alone_end(
    run: Run, file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="without the extra `ray`")
    words = ("simulate", file, "--sites", 6, "--rounds", 1, "--megabytes", 0.001)
    alone = run(*words, "--in-process")
    real = run(*words, "--sites-per-task", 3, "--directory", tmp_path / "run")
    assert alone.exit_code == real.exit_code == 0, real.output
    assert column(real.output, "status") == ["published"] * 2
    assert column(real.output, "updates") == ["6"] * 2
    assert column(real.output, "loss") == column(alone.output, "loss")
    summary = last_line(real.output)
    assert (summary["mode"], summary["sites"], summary["rounds"]) == ("http", 6, 1)
    assert summary["seconds_per_round"] > 0
    assert summary["coordinator_cpu_seconds_per_update"] > 0
    assert (tmp_path / "run/coordinator/coordinator.sqlite3").exists()


def test_without_ray_a_simulation_over_http_says_what_to_install(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = run("simulate", file, "--sites", 2)
    assert result.exit_code == 1
    assert "pip install 'pfedbayespt[ray]'" in result.output
    assert run("simulate", file, "--sites", 2, "--megabytes", 0.001, "--in-process").exit_code == 0


@pytest.mark.parametrize(
    ("change", "words", "expected"),
    [
        ({"min_sites_to_start": 9}, (), "at least 9 sites; you ask for 4"),
        ({"late_policy": "buffer", "asynchronous": {"buffer_size": 2}}, (), "asynchronous"),
    ],
)
def test_what_cannot_be_simulated_is_said(
    run: Run, file: Path, change: dict[str, Any], words: tuple[str, ...], expected: str
) -> None:
    content = json.loads(file.read_text())
    content["rounds"] |= change
    file.write_text(json.dumps(content))
    result = run("simulate", file, "--sites", 4, "--in-process", *words)
    assert result.exit_code == 1
    assert expected in result.output
