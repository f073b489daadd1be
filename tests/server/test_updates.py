"""Bad updates: each gets its problem, leaves a quarantined row where it is worth one, and changes nothing else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.server.harness import Coordinator, SiteCaller, check, deltas, problem_of, running, settings_for

from pfedbayespt.protocol import UpdateManifest, digest_of_bytes, tensors
from pfedbayespt.server.updates.service import MAX_QUARANTINED


@pytest.fixture
def site(coordinator: Coordinator) -> SiteCaller:
    """A site whose first round, of task `statistics`, collects."""
    coordinator.federation(num_rounds=1, min_sites_to_start=2, quorum=2)
    site, _ = coordinator.sites(2)
    coordinator.settle()
    return site


def without_events_and_updates(dump: dict[str, Any]) -> dict[str, Any]:
    return {table: rows for table, rows in dump.items() if table not in {"events", "updates"}}


def manifest(site: SiteCaller, round_: Any, **changes: Any) -> UpdateManifest:
    facts = {
        "federation": site.federation,
        "round_id": round_["round_id"],
        "task": round_["task"],
        "base_digest": round_["base_digest"],
        "num_examples": 10,
    }
    return UpdateManifest(**(facts | changes))


def with_header(content: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return the file with its header changed and its data as they were."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def set_manifest(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        plain = json.loads(header["__metadata__"]["manifest"])
        header["__metadata__"]["manifest"] = json.dumps(plain | changes)

    return change


def bad_files(site: SiteCaller, round_: Any) -> dict[str, tuple[str, bytes]]:
    """Return name -> (reason, file)."""
    good = deltas(round_["task"], 1.0)
    whole = tensors.encode(good, manifest(site, round_))
    nan = bytearray(whole)
    nan[-4:] = np.float32("nan").tobytes()
    return {
        "no tensor file": ("file_malformed", b"hello"),
        "cut short": ("file_malformed", whole[:-4]),
        "too long": ("file_malformed", whole + b"\0"),
        "huge header": ("file_malformed", (2**40).to_bytes(8, "little") + whole[8:]),
        "NaN": ("not_finite", bytes(nan)),
        "missing tensor": (
            "schema_mismatch",
            tensors.encode({"head.bias": good["head.bias"]}, manifest(site, round_)),
        ),
        "other shape": (
            "schema_mismatch",
            tensors.encode(good | {"head.bias": np.zeros(4, np.float32)}, manifest(site, round_)),
        ),
        "other type": (
            "schema_mismatch",
            tensors.encode(good | {"head.bias": np.zeros(3, np.float64)}, manifest(site, round_)),
        ),
        "huge numbers": ("out_of_bounds", tensors.encode(deltas("statistics", 1e30), manifest(site, round_))),
        "tensors of another task": (
            "not_zero",
            tensors.encode(deltas("training", 1.0), manifest(site, round_)),
        ),
        "other federation": (
            "wrong_federation",
            tensors.encode(good, manifest(site, round_, federation="beta")),
        ),
        "other round": ("wrong_round", tensors.encode(good, manifest(site, round_, round_id="rnd_0"))),
        "other task": ("wrong_task", tensors.encode(good, manifest(site, round_, task="training"))),
        "other base": (
            "wrong_base",
            tensors.encode(good, manifest(site, round_, base_digest=digest_of_bytes(b"x"))),
        ),
        "no examples": ("manifest_invalid", with_header(whole, set_manifest(num_examples=0))),
        "negative examples": ("manifest_invalid", with_header(whole, set_manifest(num_examples=-1))),
        "2^63 examples": ("manifest_invalid", with_header(whole, set_manifest(num_examples=2**63))),
        "unknown field": ("manifest_invalid", with_header(whole, set_manifest(extra=1))),
        "infinite metric": ("manifest_invalid", with_header(whole, set_manifest(metrics={"loss": 1e999}))),
    }


BAD_FILES = [
    "no tensor file",
    "cut short",
    "too long",
    "huge header",
    "NaN",
    "missing tensor",
    "other shape",
    "other type",
    "huge numbers",
    "tensors of another task",
    "other federation",
    "other round",
    "other task",
    "other base",
    "no examples",
    "negative examples",
    "2^63 examples",
    "unknown field",
    "infinite metric",
]


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_update_is_quarantined_with_its_reason_and_a_corrected_one_may_follow(
    coordinator: Coordinator, site: SiteCaller, name: str
) -> None:
    round_ = coordinator.live_round()
    reason, content = bad_files(site, round_)[name]
    before = coordinator.dump()

    response = site.submit_file(round_["round_id"], content)

    assert (response.status_code, problem_of(response)) == (422, "update_rejected")
    assert response.json()["reason"] == reason
    assert without_events_and_updates(coordinator.dump()) == without_events_and_updates(before)
    (update,) = coordinator.admin.get(f"/v1/rounds/{round_['round_id']}/updates")["items"]
    assert update["status"] == "quarantined"
    assert update["verdict"].startswith(f"{reason}: ")
    assert update["digest"] == digest_of_bytes(content)
    assert not coordinator.context.blobs.exists(update["digest"])
    assert coordinator.live_round()["updates_quarantined"] == 1
    site.train()
    assert coordinator.live_round()["updates_accepted"] == 1


def test_the_table_of_bad_files_is_the_list(coordinator: Coordinator, site: SiteCaller) -> None:
    assert list(bad_files(site, coordinator.live_round())) == BAD_FILES


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"Content-Type": "application/octet-stream"}, "unsupported_media_type"),
        ({"Content-Type": ""}, "unsupported_media_type"),
        ({"Content-Digest": ""}, "invalid_request"),
        ({"Content-Digest": "md5=:AAAA:"}, "invalid_request"),
        ({"Content-Digest": "sha-256=:!!!!:"}, "invalid_request"),
        ({"Content-Digest": f"sha-256=:{'A' * 43}=:"}, "signature_rejected"),
        ({"Update-Statement": ""}, "invalid_request"),
        ({"Update-Statement": "e30"}, "invalid_request"),
        ({"Update-Statement": "!!"}, "invalid_request"),
        ({"Update-Statement": "W1tb" * 1100}, "invalid_request"),
    ],
)
def test_an_update_with_a_bad_header_changes_nothing_at_all(
    coordinator: Coordinator, site: SiteCaller, headers: dict[str, str], kind: str
) -> None:
    round_ = coordinator.live_round()
    before = coordinator.dump()
    response = site.submit_file(round_["round_id"], site.update(round_, 1.0, 10), headers=headers)
    assert problem_of(response) == kind
    assert coordinator.dump() == before


def test_a_body_without_an_announced_length_is_refused(coordinator: Coordinator, site: SiteCaller) -> None:
    round_ = coordinator.live_round()
    content = site.update(round_, 1.0, 10)
    before = coordinator.dump()
    path = f"/v1/rounds/{round_['round_id']}/updates/{site.site_id}"
    headers = {"Content-Type": "application/vnd.safetensors", "Content-Digest": f"sha-256=:{'A' * 43}=:"}
    response = site.request("PUT", path, content=iter([content]), headers=headers)
    assert problem_of(response) == "invalid_request"
    assert coordinator.dump() == before


def test_an_update_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with running(settings_for(tmp_path, max_update_bytes=2000)) as coordinator:
        coordinator.federation(num_rounds=1, min_sites_to_start=2, quorum=2)
        site, _ = coordinator.sites(2)
        coordinator.settle()
        round_ = coordinator.live_round()
        before = coordinator.dump()
        response = site.submit_file(round_["round_id"], bytes(2001))
        assert (response.status_code, problem_of(response)) == (413, "body_too_large")
        assert coordinator.dump() == before


def test_an_update_for_an_unknown_round_is_not_found(coordinator: Coordinator, site: SiteCaller) -> None:
    before = coordinator.dump()
    response = site.submit_file("rnd_0", site.update(coordinator.live_round(), 1.0, 10))
    assert problem_of(response) == "not_found"
    assert coordinator.dump() == before


def test_the_same_update_again_gives_the_same_receipt_and_another_one_a_conflict(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    round_ = coordinator.live_round()
    content = site.update(round_, 1.0, 10)
    receipt = check(site.submit_file(round_["round_id"], content), 201)
    assert receipt["digest"] == digest_of_bytes(content)
    before = coordinator.dump()
    assert check(site.submit_file(round_["round_id"], content), 200) == receipt
    other = site.submit_file(round_["round_id"], site.update(round_, 2.0, 10))
    assert (other.status_code, problem_of(other)) == (409, "update_conflict")
    assert coordinator.dump() == before


def test_a_late_update_is_refused(coordinator: Coordinator, site: SiteCaller) -> None:
    round_ = coordinator.live_round()
    coordinator.clock.move(3601)
    before = coordinator.dump()
    response = site.submit_file(round_["round_id"], site.update(round_, 1.0, 10))
    assert (response.status_code, problem_of(response)) == (409, "round_closed")
    assert coordinator.dump() == before
    assert site.assignment()["action"] == "wait"


def test_the_same_bad_file_again_leaves_no_second_row(coordinator: Coordinator, site: SiteCaller) -> None:
    round_ = coordinator.live_round()
    site.submit_file(round_["round_id"], b"hello")
    before = coordinator.dump()
    assert problem_of(site.submit_file(round_["round_id"], b"hello")) == "update_rejected"
    assert coordinator.dump() == before


def test_one_site_cannot_fill_the_table_with_bad_files(coordinator: Coordinator, site: SiteCaller) -> None:
    round_ = coordinator.live_round()
    for number in range(MAX_QUARANTINED + 5):
        response = site.submit_file(round_["round_id"], f"bad {number}".encode())
        assert problem_of(response) == "update_rejected"
    assert coordinator.live_round()["updates_quarantined"] == MAX_QUARANTINED


def test_an_acknowledged_update_is_on_disk_under_its_digest(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    receipt = site.train()
    with coordinator.context.blobs.open(receipt["digest"], verify=True) as file:
        assert len(file.read()) == receipt["size_bytes"]


def test_nothing_temporary_is_left(coordinator: Coordinator, site: SiteCaller) -> None:
    round_ = coordinator.live_round()
    site.submit_file(round_["round_id"], b"hello")
    site.train()
    assert list((coordinator.context.settings.data_dir / "temporary").iterdir()) == []


def test_an_admin_sees_what_an_update_says_and_weighs(coordinator: Coordinator, site: SiteCaller) -> None:
    receipt = site.train(2.0, 10)
    update = coordinator.admin.get(f"/v1/updates/{receipt['update_id']}")
    assert update["manifest"]["metrics"] == {"loss": 0.5}
    assert [spec["name"] for spec in update["tensors"]] == sorted(spec["name"] for spec in update["tensors"])
    assert update["delta_norm"] == pytest.approx((8 * 4.0) ** 0.5)
    assert update["weight"] is None
