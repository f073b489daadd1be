"""What was run is read as it was written, on another machine too, and never mixed with what was run otherwise."""

import pytest
from store import append_run, file_of, is_done, read_runs

RUN = {
    "method": "probe",
    "plan": "easy",
    "seed": 3,
    "setup": {"rate": 1e-8},
    "choice": {"num_rounds": 10},
    "sites": [{"accuracy": 0.25480769230769, "nll": 2.7684729999}],
}
MADE_WITH = {"setup": {"rate": 1e-8}, "choice": {"num_rounds": 10}}


@pytest.fixture
def file(tmp_path):
    return file_of(tmp_path, "easy")


def test_nothing_has_been_run_before_the_first_line(file):
    assert read_runs(file) == {}


def test_runs_come_back_by_row_and_seed_with_seven_digits(file):
    append_run(file, RUN)
    append_run(file, RUN | {"method": "FedNCM"})
    append_run(file, RUN | {"seed": 4})
    runs = read_runs(file)
    assert {row: sorted(seeds) for row, seeds in runs.items()} == {"probe": [3, 4], "FedNCM": [3]}
    assert runs["probe"][3]["sites"] == [{"accuracy": 0.2548077, "nll": 2.768473}]


def test_what_has_been_run_is_not_due_again(file):
    append_run(file, RUN)
    runs = read_runs(file)
    assert is_done(runs, "probe", 3, MADE_WITH)
    assert not is_done(runs, "probe", 4, MADE_WITH)
    assert not is_done(runs, "FedNCM", 3, MADE_WITH)


def test_a_run_with_other_rates_is_refused_by_name(file):
    append_run(file, RUN)
    with pytest.raises(SystemExit, match="probe, seed 3 of easy was run with another choice"):
        is_done(read_runs(file), "probe", 3, MADE_WITH | {"choice": {"num_rounds": 20}})
