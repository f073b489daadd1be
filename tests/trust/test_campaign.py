"""A bounded part of `make bench-trust`: the same code, fewer trials."""

from pathlib import Path

from tests.trust import campaign


def test_bad_inputs_meet_no_server_error_and_cost_little_memory(tmp_path: Path) -> None:
    figures = campaign.bad_inputs(tmp_path, 300)
    assert figures == {"bad_inputs": 300, "server_errors": 0, "over_budget": 0}


def test_every_kind_of_tampering_is_detected(tmp_path: Path) -> None:
    assert campaign.tampering(tmp_path, 30) == {"tamper_trials": 30, "tampers_detected": 30}


def test_no_replay_has_an_effect(tmp_path: Path) -> None:
    figures = campaign.replaying(tmp_path, 2)
    assert figures["replays"] >= 20
    assert figures["replays_accepted"] == 0
