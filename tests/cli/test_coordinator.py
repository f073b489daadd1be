"""Running a coordinator, predicting through it, and getting backbones."""

import stat
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.client_sdk.harness import ADMIN_TOKEN, coordinating

from pfedbayespt.cli.coordinator import read_settings
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.protocol import Prediction, digest_of_bytes


def test_init_writes_settings_that_run_accepts_and_only_their_owner_reads(run: Run, tmp_path: Path) -> None:
    result = run("coordinator", "init", tmp_path / "new" / "place")
    file = tmp_path / "new" / "place" / "coordinator.env"
    assert result.exit_code == 0, result.output
    assert f"coordinator run --settings {file}" in result.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    settings = read_settings(file, {"port": 9000})
    token = settings.admin_token.get_secret_value()
    assert len(token) >= 32
    assert token not in result.output
    assert (settings.data_dir, settings.port) == (tmp_path / "new" / "place" / "data", 9000)


def test_init_gives_each_coordinator_a_token_of_its_own_and_never_replaces_one(
    run: Run, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        run("coordinator", "init", tmp_path / name)
    contents = [(tmp_path / name / "coordinator.env").read_text() for name in ("a", "b")]
    assert contents[0].splitlines()[0] != contents[1].splitlines()[0]
    again = run("coordinator", "init", tmp_path / "a")
    assert again.exit_code == 1
    assert "is there already" in again.output
    assert (tmp_path / "a" / "coordinator.env").read_text() == contents[0]


def test_the_environment_wins_over_the_settings_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("coordinator", "init", tmp_path)
    monkeypatch.setenv("PFEDBAYESPT_ADMIN_TOKEN", ADMIN_TOKEN)
    assert read_settings(tmp_path / "coordinator.env", {}).admin_token.get_secret_value() == ADMIN_TOKEN


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "PFEDBAYESPT_ADMIN_TOKEN: Field required"),
        ("PFEDBAYESPT_ADMIN_TOKEN=swordfish\n", "at least 32 characters"),
        (f"PFEDBAYESPT_ADMIN_TOKEN={ADMIN_TOKEN}\nPFEDBAYESPT_PORT=many\n", "PFEDBAYESPT_PORT: "),
        (f"PFEDBAYESPT_ADMIN_TOKEN={ADMIN_TOKEN}\nPFEDBAYESPT_PORTT=1\n", "Extra inputs are not permitted"),
    ],
)
def test_a_coordinator_without_proper_settings_refuses_to_start_and_shows_no_secret(
    run: Run, tmp_path: Path, content: str, expected: str
) -> None:
    file = tmp_path / "settings.env"
    file.write_text(content)
    result = run("coordinator", "run", "--settings", file)
    assert result.exit_code == 1
    assert expected in result.output
    assert "swordfish" not in result.output
    assert ADMIN_TOKEN not in result.output


def test_upgrading_a_new_database_makes_it(run: Run, tmp_path: Path) -> None:
    run("coordinator", "init", tmp_path)
    result = run("coordinator", "upgrade-database", "--settings", tmp_path / "coordinator.env")
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "data").glob("*"))


def test_a_prediction_over_http_is_shown_with_its_doubt(
    run: Run, tmp_path: Path, images: Path, backbone_file: Path, backbone_config: BackboneConfig
) -> None:
    roles = {"roles": ["coordinator", "inference"], "backbone_cache_dir": backbone_file.parent}
    with coordinating(tmp_path / "c", backbone_file, backbone_config, **roles) as coordinator:
        coordinator.found()
        image = images / "held-out" / "circle" / "2-0.png"
        words = ["predict", image, "--federation", "shapes", "--url", coordinator.url, "--token", ADMIN_TOKEN]
        answer = Prediction.model_validate_json(run(*words, "--json", "--seed", 3).stdout)
        assert answer.seed == 3
        assert answer.image_digest == digest_of_bytes(image.read_bytes())
        shown = run(*words, "--top-k", 2).output
        # An untrained model says: every class alike.
        assert shown.count("33.3%") == 2
        assert "doubt 1.099 nats: 1.099 in the image itself (aleatoric), 0.000" in shown
        assert "shapes version 0" in shown
        refused = run(*[tmp_path / "none.txt" if word == image else word for word in words])
        assert refused.exit_code == 2
        (tmp_path / "none.txt").write_text("not an image")
        refused = run(*[tmp_path / "none.txt" if word == image else word for word in words])
        assert refused.exit_code == 1
        assert refused.output.startswith("error: ")


def test_backbones_in_the_cache_are_listed_with_their_digests(
    run: Run, tmp_path: Path, backbone_file: Path, backbone_config: BackboneConfig
) -> None:
    assert "backbone import" in run("backbone", "list", "--cache", tmp_path).output
    (tmp_path / "backbones").mkdir()
    (tmp_path / "backbones" / "tiny.safetensors").write_bytes(backbone_file.read_bytes())
    assert backbone_config.weights_digest in run("backbone", "list", "--cache", tmp_path).output


def test_fetching_an_architecture_that_does_not_exist_says_so(run: Run, tmp_path: Path) -> None:
    result = run("backbone", "fetch", "no_such_vit", "--cache", tmp_path)
    assert result.exit_code == 1
    assert "no_such_vit" in result.output
