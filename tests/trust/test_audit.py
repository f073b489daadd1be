"""An export is sound, every tampering with it is found, and its versions can be computed again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.trust.tampers import KINDS, tamper
from tests.trust.world import History, history
from typer.testing import CliRunner

from pfedbayespt.cli.audit.archive import Archive, write_lines
from pfedbayespt.cli.audit.rebuilding import rebuild
from pfedbayespt.cli.audit.verification import Audit
from pfedbayespt.cli.failures import UserError
from pfedbayespt.cli.main import app
from pfedbayespt.protocol import SigningKey

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "follow-a-prediction.md"


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    with history(tmp_path_factory.mktemp("history")) as made:
        yield made


@pytest.fixture(scope="module")
def sound(past: History, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "sound"
    past.export(folder)
    return folder


def is_found(folder: Path) -> bool:
    """Whether `verify` refuses the export."""
    try:
        return next(Audit(Archive.read(folder)).problems(), None) is not None
    except UserError:
        return True


def documented_commands() -> list[str]:
    """Return the three commands of the how-to."""
    block = PAGE.read_text(encoding="utf-8").split("```sh\n")[1].split("```")[0]
    lines = block.splitlines()
    assert len(lines) == 3
    return lines


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_an_export_is_sound_with_all_that_the_sites_kept(past: History, sound: Path) -> None:
    archive = Archive.read(sound)
    assert list(Audit(archive, past.receipts).problems()) == []
    assert len(archive.receipts) == len(past.receipts) == 9
    assert {receipt.signature for receipt in archive.receipts} == {one.signature for one in past.receipts}


@pytest.mark.parametrize("kind", KINDS)
def test_tampering_is_found(sound: Path, tmp_path: Path, kind: str) -> None:
    for seed in range(2):
        folder = tmp_path / str(seed)
        tamper(sound, folder, kind, seed)
        assert is_found(folder), (kind, seed)


def test_events_that_were_cut_off_are_found_by_whoever_kept_a_receipt(
    past: History, sound: Path, tmp_path: Path
) -> None:
    """The whole export of an earlier moment is sound in itself, but not beside a later receipt."""
    archive = Archive.read(sound)
    archive.events[:] = archive.events[:5]
    archive.updates.clear()
    archive.receipts.clear()
    problems = list(Audit(archive, past.receipts).problems())
    assert any("names a head that is not in the chain" in problem for problem in problems)


def test_every_version_is_computed_again_to_the_same_bytes(sound: Path) -> None:
    archive = Archive.read(sound)
    for version in archive.versions[1:]:
        assert rebuild(archive, version.version_number) == version.digest


def test_a_server_optimisers_memory_is_computed_again_from_the_first_version_on(tmp_path: Path) -> None:
    rule = {"rule": "fedadam"}
    with history(tmp_path / "data", rounds_played=4, num_rounds=3, aggregation=rule) as made:
        archive = made.export(tmp_path / "export")
    assert archive.versions[-1].manifest is not None
    assert archive.versions[-1].manifest.parent_optimiser_state_digest is not None
    assert list(Audit(archive).problems()) == []
    for version in archive.versions[1:]:
        assert rebuild(archive, version.version_number) == version.digest


def test_an_auditor_follows_a_prediction_back_with_three_commands(
    past: History, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = past.coordinator.versions()[0]
    answer = {
        "federation": "alpha",
        "label": "a",
        "probabilities": [{"label": "a", "probability": 1.0}],
        "uncertainty": dict.fromkeys(
            (
                "total_entropy_nats",
                "aleatoric_entropy_nats",
                "epistemic_entropy_nats",
                "epistemic_entropy_corrected_nats",
                "prompt_variance",
            ),
            0.0,
        ),
        "model_version": version["version_number"],
        "model_digest": version["digest"],
        "num_samples": 1,
        "seed": 0,
        "image_digest": "sha256:" + "0" * 64,
    }
    (tmp_path / "prediction.json").write_text(json.dumps(answer))
    write_lines(tmp_path / "receipts.jsonl", past.receipts)
    monkeypatch.setattr("pfedbayespt.cli.admin.connect", lambda url, token: past.client())
    out = tmp_path / "export"
    actual = {
        "ideograms-export": out,
        "ideograms": "alpha",
        "key_ID": past.coordinator.context.signer.key_id,
        "receipts.jsonl": tmp_path / "receipts.jsonl",
        "prediction.json": tmp_path / "prediction.json",
        "VERSION": version["version_number"],
    }
    exporting, verifying, rebuilding = (
        [actual.get(word, word) for word in line.split()[1:]] for line in documented_commands()
    )
    exported = command(*exporting, "--url", "http://x", "--token", "t")
    assert exported.exit_code == 0, exported.output
    verified = command(*verifying)
    assert verified.exit_code == 0, verified.output
    assert "9 kept by sites" in verified.output
    for part in version["inputs"]:
        assert part["digest"] in verified.output
    rebuilt = command(*rebuilding)
    assert rebuilt.exit_code == 0, rebuilt.output
    assert version["digest"] in rebuilt.output


def test_verify_says_what_does_not_hold_and_exits_with_1(sound: Path, tmp_path: Path) -> None:
    tamper(sound, tmp_path / "bad", "event forged", 0)
    result = command("verify", tmp_path / "bad")
    assert result.exit_code == 1
    assert "NOT SOUND  event" in result.output


def test_verify_trusts_no_other_key_than_the_one_it_is_told(sound: Path) -> None:
    result = command("verify", sound, "--coordinator-key", SigningKey.generate().key_id)
    assert result.exit_code == 1
    assert "was expected" in result.output


def test_rebuild_notices_a_forged_input(sound: Path, tmp_path: Path) -> None:
    tamper(sound, tmp_path / "bad", "inputs changed", 1)
    results = [command("rebuild", number, "--export", tmp_path / "bad") for number in (1, 2, 3)]
    assert [result.exit_code for result in results].count(1) == 1


def test_a_site_sees_its_own_receipts_and_names_and_nobody_elses(past: History) -> None:
    one, other = past.sites[0], past.sites[1]
    receipts = {receipt.site_id: receipt for receipt in past.receipts}
    own, others = receipts[one.site_id], receipts[other.site_id]
    assert one.get(f"/v1/updates/{own.update_id}/receipt")["signature"] == own.signature
    one.get(f"/v1/updates/{others.update_id}/receipt", status=404)
    lineage = one.get("/v1/federations/alpha/model-versions/3/lineage")
    assert {part["organisation"] for part in lineage["inputs"]} == {"clinic"}
    assert [ancestor["version_number"] for ancestor in lineage["ancestors"]] == [2, 1, 0]
