"""Files without a row go once they are old, and no file with one; nor one that is on its way to its row."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.test_late_updates import prepared
from tests.contracts.test_rounds import training_round
from tests.server.harness import Coordinator, check

from pfedbayespt.protocol import digest_of_bytes
from pfedbayespt.server.operations import verify
from pfedbayespt.server.updates import service
from pfedbayespt.server.worker import sweeping
from pfedbayespt.server.worker.sweeping import sweep


def put(coordinator: Coordinator, content: bytes) -> str:
    with coordinator.context.blobs.create() as blob:
        blob.write(content)
        coordinator.context.blobs.put(blob)
        return blob.digest


def path_of(coordinator: Coordinator, digest: str) -> Path:
    digits = digest.removeprefix("sha256:")
    return coordinator.context.settings.data_dir / "blobs" / "sha256" / digits[:2] / digits


def make_old(coordinator: Coordinator) -> None:
    """Let every file be as old as files must be to go, and a second more."""
    for path in coordinator.context.settings.data_dir.rglob("*"):
        if path.is_file() and "sqlite" not in path.name:
            age(coordinator, path)


def age(coordinator: Coordinator, path: Path) -> None:
    moment = path.stat().st_mtime - coordinator.context.settings.sweep_grace_seconds - 1
    os.utime(path, (moment, moment))


def blobs(coordinator: Coordinator) -> set[str]:
    folder = coordinator.context.settings.data_dir / "blobs" / "sha256"
    return {f"sha256:{path.name}" for path in folder.glob("*/*")}


def test_what_no_row_names_goes_and_all_that_one_names_stays(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_rounds=2, aggregation={"rule": "fedavgm"})
    for site in sites:
        site.train()
    coordinator.settle()
    sites[0].train(2.0)
    named = blobs(coordinator)
    version = coordinator.versions()[0]
    assert {version["digest"], version["optimiser_state_digest"], version["inputs"][0]["digest"]} < named
    orphan = put(coordinator, b"nobody asks for this")
    half = coordinator.context.settings.data_dir / "temporary" / "0123.partial"
    half.write_bytes(b"half an upd")
    make_old(coordinator)

    assert sweep(coordinator.context) == 2

    assert blobs(coordinator) == named
    assert not half.exists()
    assert orphan not in blobs(coordinator)
    assert sweep(coordinator.context) == 0


def test_young_files_stay_whether_a_row_names_them_or_not(coordinator: Coordinator) -> None:
    orphan = put(coordinator, b"its row may be on its way")
    with coordinator.context.blobs.create() as blob:
        blob.write(b"arriving now")
        assert sweep(coordinator.context) == 0
        coordinator.context.blobs.put(blob)
    assert {orphan, digest_of_bytes(b"arriving now")} == blobs(coordinator)


def test_an_update_whose_row_is_yet_to_be_written_survives_a_sweep(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes are those of an old orphan: the upload must make it young again."""
    sites = training_round(coordinator)
    round_id, content = prepared(sites[0])
    age(coordinator, path_of(coordinator, put(coordinator, content)))
    accept, swept = service.accept, []

    def sweep_first(*arguments: Any) -> Any:
        monkeypatch.setattr(service, "accept", accept)
        swept.append(sweep(coordinator.context))
        return accept(*arguments)

    monkeypatch.setattr(service, "accept", sweep_first)
    receipt = check(sites[0].submit_file(round_id, content), 201)
    assert swept == [0]
    assert receipt["digest"] in blobs(coordinator)


def test_bytes_that_are_put_again_while_a_sweep_has_found_them_orphaned_stay(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(coordinator, b"an old orphan")
    age(coordinator, path_of(coordinator, digest))
    named = sweeping.named

    def put_meanwhile(*arguments: Any) -> set[str]:
        found = named(*arguments)
        put(coordinator, b"an old orphan")
        return found

    monkeypatch.setattr(sweeping, "named", put_meanwhile)
    assert sweep(coordinator.context) == 0
    assert digest in blobs(coordinator)


def test_files_of_rounds_that_are_long_over_are_retired_and_their_lineage_stays(
    coordinator: Coordinator,
) -> None:
    sites = training_round(coordinator, num_rounds=4)
    for value in (1.0, 2.0):
        for site in sites:
            site.train(value)
        coordinator.settle()
    oldest, newer = [version["inputs"] for version in coordinator.versions()][:2][::-1]
    keeping = replace(
        coordinator.context,
        settings=coordinator.context.settings.model_copy(update={"keep_payload_rounds": 1}),
    )
    make_old(coordinator)
    sweep(keeping)
    assert not {part["digest"] for part in oldest} & blobs(coordinator)
    assert {part["digest"] for part in newer} <= blobs(coordinator)
    update = coordinator.admin.get(f"/v1/updates/{oldest[0]['update_id']}")
    assert update["payload_retired_at"] is not None
    assert update["digest"] == oldest[0]["digest"]
    gone = coordinator.admin.request("GET", f"/v1/updates/{oldest[0]['update_id']}/parameters")
    assert (gone.status_code, "retired" in gone.text) == (404, True)
    retired = [
        event
        for event in coordinator.admin.get("/v1/federations/alpha/events?limit=200")["items"]
        if event["action"] == "round.payloads_retired"
    ]
    assert len(retired) == 2  # of statistics, and the first of training
    assert verify(coordinator.context.settings).problems == ()
    assert sweep(keeping) == 0
    assert coordinator.versions()[1]["inputs"] == oldest
