"""Uploads that arrive torn, short, long, altered, slowly, late, twice or in another order (P1, P6)."""

import random
import socket
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.test_rounds import at_once
from tests.faults.arena import Arena
from tests.faults.campaign import damage
from tests.faults.checks import Auditor
from tests.faults.http_by_hand import Submission, connect, status_of, submission
from tests.faults.tally import Tally
from tests.server.harness import SiteCaller, problem_of, upload_headers

pytestmark = pytest.mark.e2e


def torn(connection: socket.socket, request: Submission) -> None:
    connection.sendall(request.head() + request.content[: len(request.content) // 2])


def short(connection: socket.socket, request: Submission) -> None:
    connection.sendall(request.head() + request.content[:-1])
    connection.shutdown(socket.SHUT_WR)
    assert connection.recv(1) == b""  # whoever hangs up before the end is not answered


def longer_than_announced(connection: socket.socket, request: Submission) -> int:
    digest = upload_headers(request.content + b"more")["Content-Digest"]
    connection.sendall(request.head(**{"Content-Digest": digest}) + request.content + b"more")
    return status_of(connection)


def altered(connection: socket.socket, request: Submission) -> int:
    connection.sendall(request.head() + request.content[:-1] + bytes([request.content[-1] ^ 1]))
    return status_of(connection)


def of_another_digest(connection: socket.socket, request: Submission) -> int:
    digest = upload_headers(b"something else")["Content-Digest"]
    connection.sendall(request.head(**{"Content-Digest": digest}) + request.content)
    return status_of(connection)


@pytest.mark.parametrize(
    "way", [torn, short, longer_than_announced, altered, of_another_digest], ids=lambda way: way.__name__
)
@pytest.mark.thorough
def test_an_upload_that_does_not_arrive_as_announced_leaves_nothing_and_may_be_repeated(
    arena: Arena, auditor: Auditor, tally: Tally, way: object
) -> None:
    site, round_ = round_of(arena)
    content = arena.ledger.file_of(site, round_)
    before = files_in(arena.process.folder)
    with tally.faults() as survived:
        with connect(arena.process.port) as connection:
            status = way(connection, submission(site, round_["round_id"], content))  # type: ignore[operator]
        assert status is None or 400 <= status < 500
        await_no_temporary_file(arena)
        assert files_in(arena.process.folder) == before
        assert not auditor.rows("SELECT id FROM updates WHERE round_id = :id", id=round_["round_id"])
        assert arena.submit(site, round_).status_code == 201
        arena.play_round()
        auditor.check()
        survived(1)


@pytest.mark.thorough
def test_a_coordinator_killed_in_the_middle_of_a_body_takes_it_when_it_is_sent_again(
    arena: Arena, auditor: Auditor, tally: Tally
) -> None:
    site, round_ = round_of(arena)
    request = submission(site, round_["round_id"], arena.ledger.file_of(site, round_))
    for _ in range(5):
        arena.process.kill()
        arena.process.start("ingest.mid_body=kill")
        with tally.faults() as survived:
            with connect(arena.process.port) as connection:
                connection.sendall(request.head() + request.content[: len(request.content) // 2])
                arena.process.await_death()
            survived(1)
    arena.process.start()
    assert not list((arena.process.folder / "temporary").iterdir()) or tally.database == "postgresql"
    assert arena.submit(site, round_).status_code == 201
    arena.play_round()
    auditor.check()


@pytest.mark.thorough
def test_senders_that_take_for_ever_are_cut_off_and_keep_nobody_else_waiting(
    arena: Arena, auditor: Auditor, tally: Tally
) -> None:
    arena.process.settings["body_deadline_seconds"] = 1.0
    site, round_ = round_of(arena)
    request = submission(site, round_["round_id"], arena.ledger.file_of(site, round_))
    with tally.faults() as survived:
        slow = [connect(arena.process.port) for _ in range(60)]
        for connection in slow:
            connection.sendall(request.head() + request.content[:1])
        arena.play_round()
        assert [status_of(connection) for connection in slow] == [408] * len(slow)
        for connection in slow:
            connection.close()
        await_no_temporary_file(arena)
        auditor.check()
        survived(1)


@pytest.mark.thorough
def test_deliveries_that_are_late_repeated_or_out_of_order_change_nothing(
    arena: Arena, auditor: Auditor, tally: Tally
) -> None:
    arena.found(num_sites=4, min_sites_to_start=4, quorum=2, evaluate=False)
    arena.play_round()
    chance = random.Random(3)
    for _ in range(5):
        round_ = arena.sites[0].assignment()["round"]
        deliveries = [site for site in arena.sites[1:] for _ in range(3)]
        chance.shuffle(deliveries)
        with tally.faults() as survived:
            at_once(len(deliveries), partial(submit_one, arena, deliveries, round_))
            arena.coordinator.admin.post(f"/v1/rounds/{round_['round_id']}/close")
            late = arena.submit(arena.sites[0], round_)
            assert problem_of(late) == "round_closed"
            while arena.round()["round_id"] == round_["round_id"]:
                time.sleep(0.01)
            repeated = [arena.submit(site, round_) for site in arena.sites[1:]]
            assert {answer.status_code for answer in repeated} == {200}
            auditor.check()
            survived(1)


def test_a_round_that_misses_its_quorum_is_abandoned_though_the_coordinator_dies_meanwhile(
    arena: Arena, auditor: Auditor, tally: Tally
) -> None:
    site, round_ = round_of(arena, deadline_seconds=2.0)
    assert arena.submit(site, round_).status_code == 201
    with tally.faults() as survived:
        arena.process.kill()
        while (ended := arena.coordinator.admin.get(f"/v1/rounds/{round_['round_id']}"))[
            "finished_at"
        ] is None:
            time.sleep(0.02)
        assert ended["status"] == "abandoned"
        assert ended["abandoned_reason"].startswith("quorum missed: 1 of 2")
        (update,) = auditor.rows(
            "SELECT status, verdict FROM updates WHERE round_id = :id", id=ended["round_id"]
        )
        assert update["status"] == "discarded"
        auditor.check()
        survived(1)


@pytest.mark.thorough
@pytest.mark.parametrize("what", ["damaged", "missing"])
def test_an_update_whose_file_is_gone_at_the_close_is_discarded_with_a_reason(
    arena: Arena, auditor: Auditor, tally: Tally, what: str
) -> None:
    site, round_ = round_of(arena)
    receipt = arena.submit(site, round_).json()
    with tally.faults() as survived:
        if what == "damaged":
            damage(arena.process.folder, receipt["digest"])
        else:
            blob(arena, receipt["digest"]).unlink()
        arena.play_round()
        (update,) = auditor.rows(
            "SELECT status, verdict FROM updates WHERE id = :id", id=receipt["update_id"]
        )
        assert update["status"] == "discarded"
        assert update["verdict"].startswith("file_damaged")
        auditor.check()
        survived(1)


@pytest.mark.thorough
def test_a_version_whose_file_is_damaged_is_noticed_and_others_are_served(
    arena: Arena, auditor: Auditor, tally: Tally
) -> None:
    arena.found(evaluate=False)
    arena.play_round()
    versions = arena.coordinator.versions()
    path = blob(arena, versions[0]["digest"])
    intact = path.read_bytes()
    with tally.faults() as survived:
        damage(arena.process.folder, versions[0]["digest"])
        round_ = arena.round()
        for site in arena.sites:
            arena.submit(site, round_)
        arena.coordinator.parameters(versions[1]["version_number"])
        time.sleep(0.3)
        assert arena.round()["status"] == "aggregating"
        path.write_bytes(intact)
        arena.play_round()
        auditor.check()
        survived(1)


def submit_one(arena: Arena, deliveries: list[SiteCaller], round_: dict[str, Any], number: int) -> None:
    arena.submit(deliveries[number], round_)


def round_of(arena: Arena, **policy: object) -> tuple[SiteCaller, dict[str, Any]]:
    """Return a site of a new federation, and the training round in which it has not submitted."""
    arena.found(**{"evaluate": False, **policy})
    arena.play_round()
    return arena.sites[0], arena.sites[0].assignment()["round"]


def blob(arena: Arena, digest: str) -> Path:
    digits = digest.removeprefix("sha256:")
    return arena.process.folder / "blobs" / "sha256" / digits[:2] / digits


def files_in(folder: Path) -> set[Path]:
    return {path for path in (folder / "blobs").rglob("*") if path.is_file()}


def await_no_temporary_file(arena: Arena) -> None:
    deadline = time.monotonic() + 10.0
    while list((arena.process.folder / "temporary").iterdir()):
        assert time.monotonic() < deadline, "a temporary file stays"
        time.sleep(0.01)
