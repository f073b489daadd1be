"""Failpoints: every name is listed and used, a plan happens as it says, and production refuses one."""

import re
import signal
import threading
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from tests.faults.arena import Arena
from tests.server.harness import running, settings_for

import pfedbayespt.server
from pfedbayespt.protocol import digest_of_bytes
from pfedbayespt.server import create_app, failpoints
from pfedbayespt.server.failpoints import (
    FAILPOINTS,
    VARIABLE,
    FailpointError,
    FailpointsRefusedError,
    arm,
    failpoint,
)

SOURCES = Path(pfedbayespt.server.__file__).parent


@pytest.fixture(autouse=True)
def disarmed_afterwards() -> Iterator[None]:
    yield
    arm("")


def test_every_failpoint_in_the_code_is_listed_and_every_listed_one_is_in_the_code_once() -> None:
    used = {
        path: re.findall(r"\bfailpoint\(\"([^\"]*)\"\)", path.read_text())
        for path in SOURCES.rglob("*.py")
        if path.name != "failpoints.py"
    }
    # A process keeps its blobs in one store: each of them has its own of what both can have.
    of_the_object_store = used.pop(SOURCES / "blobs" / "objects.py")
    assert sorted(chain(*used.values())) == sorted(FAILPOINTS)
    assert len(of_the_object_store) == len(set(of_the_object_store) & set(FAILPOINTS))


def test_an_unarmed_process_passes_every_point() -> None:
    for name in FAILPOINTS:
        failpoint(name)


def test_a_point_fails_the_time_it_is_told_to_and_only_then() -> None:
    arm("ingest.after_put@3=raise, blob.after_fsync=raise")
    failpoint("ingest.after_put")
    failpoint("ingest.after_put")
    with pytest.raises(FailpointError, match=r"ingest\.after_put"):
        failpoint("ingest.after_put")
    failpoint("ingest.after_put")
    with pytest.raises(FailpointError):
        failpoint("blob.after_fsync")


def test_a_point_sleeps_as_long_as_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    arm("ingest.after_put=sleep:2.5")
    failpoint("ingest.after_put")
    assert slept == [2.5]


def test_killing_is_a_signal_to_the_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(failpoints.os, "kill", lambda pid, number: sent.append((pid, number)))
    arm("ingest.after_put=kill")
    failpoint("ingest.after_put")
    assert sent == [(failpoints.os.getpid(), signal.SIGKILL)]


def test_stopping_is_a_signal_to_the_own_thread_so_that_it_does_nothing_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(
        failpoints.signal, "pthread_kill", lambda thread, number: sent.append((thread, number))
    )
    arm("ingest.after_put=stop")
    failpoint("ingest.after_put")
    assert sent == [(threading.get_ident(), signal.SIGSTOP)]


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        ("ingest.after_putt=kill", "there is no failpoint"),
        ("ingest.after_put", "is no failpoint; allowed"),
        ("ingest.after_put=explode", "is no failpoint; allowed"),
        ("ingest.after_put@0=kill", "is no failpoint; allowed"),
        ("ingest.after_put=kill,", "is no failpoint; allowed"),
    ],
)
def test_a_plan_that_is_not_understood_is_refused_and_changes_nothing(plan: str, complaint: str) -> None:
    arm("ingest.after_put=raise")
    with pytest.raises(FailpointsRefusedError, match=complaint):
        arm(plan)
    with pytest.raises(FailpointError):
        failpoint("ingest.after_put")


def test_production_refuses_to_start_with_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "ingest.after_put=kill")
    with pytest.raises(FailpointsRefusedError, match="makes this process fail on purpose; unset it"):
        create_app(settings_for(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_process_that_may_fail_is_armed_at_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "ingest.after_put=raise")
    create_app(settings_for(tmp_path / "data", allow_failpoints=True))
    with pytest.raises(FailpointError):
        failpoint("ingest.after_put")


@pytest.mark.e2e
def test_an_update_that_met_an_error_is_taken_when_it_is_sent_again(arena: Arena) -> None:
    arena.process.start("ingest.after_put=raise,ingest.before_commit@2=raise,aggregate.after_put=raise")
    arena.found()
    arena.play_round()
    assert len(arena.ledger.receipts) == len(arena.sites)
    assert arena.process.log.read_text().count("FailpointError: failpoint") == 3


def test_an_updates_file_is_kept_before_its_row_is_committed(tmp_path: Path) -> None:
    with running(settings_for(tmp_path / "data")) as coordinator:
        coordinator.federation(num_rounds=1)
        site, _ = coordinator.sites(2)
        coordinator.settle()
        round_ = coordinator.live_round()
        content = site.update(round_, 0.5, num_examples=3)
        arm("ingest.before_commit=raise")
        assert site.submit_file(round_["round_id"], content).status_code == 500
        assert coordinator.context.blobs.exists(digest_of_bytes(content))
