"""What a run leaves behind: one training, and a row for each thing that is said of it."""

from catalogue import METHODS, PROMPTS
from run import rows_of


def test_a_refitted_head_is_a_row_of_the_same_training():
    assert rows_of("FedAvg-VPT", controls=False) == ["FedAvg-VPT", "FedAvg-VPT + refit"]
    assert "FedAvg-VPT + refit" not in METHODS


def test_controls_are_rows_where_they_are_asked_for():
    assert "ours, u off" in rows_of("pFedBayesPT", controls=True)
    assert "ours, u off" not in rows_of("pFedBayesPT", controls=False)


def test_every_method_that_is_run_by_default_is_in_the_catalogue():
    assert set(PROMPTS) <= set(METHODS)


def test_every_method_can_be_named_on_the_command_line():
    assert not [name for name in METHODS if "," in name]
