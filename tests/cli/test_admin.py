"""The admin's commands against a real coordinator."""

import json
import socket
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.client_sdk.harness import Coordinator

from pfedbayespt.protocol import Federation, Round, digest_of_bytes, digest_of_message

SPECIFICATION = """
classes = ["circle", "square", "stripe"]

[backbone]
architecture = "test_vit"
image_size_pixels = 48

[insertion]
num_blocks = 2
prompt_length = 2

[posterior]
latent_dim = 4
noise_dim = 3
hidden_dim = 8

[training]
batch_size = 8

[rounds]
num_rounds = 1
min_sites_to_start = 1
quorum = 1
"""


@pytest.fixture
def specification(tmp_path: Path) -> Path:
    file = tmp_path / "shapes.toml"
    file.write_text(SPECIFICATION)
    return file


def create(admin: Run, specification: Path, backbone: Path, *words: object, name: str = "shapes"):
    return admin("create-federation", name, "--spec", specification, "--backbone", backbone, *words)


def test_version_0_is_written_for_a_draft_and_is_what_founding_would_have_put(
    admin: Run, coordinator: Coordinator, specification: Path, backbone_file: Path, tmp_path: Path
) -> None:
    assert create(admin, specification, backbone_file, "--draft").exit_code == 0
    file = tmp_path / "version-0.safetensors"
    result = admin("initial-parameters", "shapes", "--backbone", backbone_file, "--out", file)
    assert result.exit_code == 0, result.output
    assert digest_of_bytes(file.read_bytes()) == coordinator.admin.model_versions.get("shapes", 0).digest
    other = tmp_path / "other.safetensors"
    other.write_bytes(backbone_file.read_bytes() + b" ")
    refused = admin("initial-parameters", "shapes", "--backbone", other, "--out", tmp_path / "x")
    assert refused.exit_code == 1
    assert "federation shapes names backbone" in refused.output
    assert not (tmp_path / "x").exists()


def test_founding_takes_the_backbones_digest_and_activates(
    admin: Run, coordinator: Coordinator, specification: Path, backbone_file: Path
) -> None:
    result = create(admin, specification, backbone_file, "--json")
    assert result.exit_code == 0, result.output
    federation = Federation.model_validate_json(result.stdout)
    assert federation.status == "active"
    assert federation.specification.backbone.weights_digest == coordinator.backbone_config.weights_digest
    assert federation.serving_version == 0
    assert federation.specification_digest == digest_of_message(federation.specification)


def test_founding_again_goes_on_where_it_stopped(
    admin: Run, coordinator: Coordinator, specification: Path, backbone_file: Path
) -> None:
    assert create(admin, specification, backbone_file, "--draft").exit_code == 0
    assert coordinator.admin.federations.get("shapes").status == "draft"
    for _ in range(2):
        assert create(admin, specification, backbone_file).exit_code == 0
        assert coordinator.admin.federations.get("shapes").status == "active"


def test_a_name_that_stands_for_another_specification_is_refused(
    admin: Run, specification: Path, backbone_file: Path
) -> None:
    create(admin, specification, backbone_file)
    specification.write_text(SPECIFICATION.replace("batch_size = 8", "batch_size = 4"))
    result = create(admin, specification, backbone_file)
    assert result.exit_code == 1
    assert "exists already, with specification sha256:" in result.output


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("latent_dim = 4", "latent_dim = 0", "posterior.latent_dim: Input should be greater than 0"),
        ("batch_size", "batch_sise", "training.batch_sise: Extra inputs are not permitted"),
        ("[backbone]", "[backbone", "cannot be read"),
        ('architecture = "test_vit"', 'architecture = "no_vit"', "timm knows no architecture 'no_vit'"),
        ("num_blocks = 2", "num_blocks = 99", "num_blocks is 99"),
        (
            "image_size_pixels",
            'weights_digest = "sha256:' + "0" * 64 + '"\nimage_size_pixels',
            "names backbone",
        ),
    ],
)
def test_a_specification_that_will_not_do_is_explained_without_a_traceback(
    admin: Run, specification: Path, backbone_file: Path, before: str, after: str, expected: str
) -> None:
    specification.write_text(SPECIFICATION.replace(before, after))
    result = create(admin, specification, backbone_file)
    assert result.exit_code == 1
    assert expected in result.output
    assert "Traceback" not in result.output


def test_a_specification_may_be_json(admin: Run, coordinator: Coordinator, tmp_path: Path) -> None:
    file = tmp_path / "shapes.json"
    file.write_text(coordinator.specification().model_dump_json())
    assert create(admin, file, coordinator.backbone_file).exit_code == 0


def test_an_invitation_shows_the_token_once_and_what_to_do_with_it(
    admin: Run,
    coordinator: Coordinator,
    specification: Path,
    backbone_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create(admin, specification, backbone_file)
    monkeypatch.setenv("COLUMNS", "30")
    result = admin("invite", "shapes", "--organisation", "clinic-a", "--valid-hours", 2)
    assert result.exit_code == 0, result.output
    (token,) = [line.split()[1] for line in result.output.splitlines() if line.startswith("token")]
    assert len(token) > 40, "a narrow screen must not cut it"
    assert f"pfedbayespt site enrol {coordinator.url} --name clinic-a" in result.output
    document = json.loads(admin("invite", "shapes", "--organisation", "clinic-a", "--json").stdout)
    assert document["token"].startswith("enr_")


def test_what_happened_is_listed_for_people_and_for_programs(
    admin: Run, coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    coordinator.enrol(tmp_path / "state", "clinic-a").run(images / "train", images / "held-out")

    assert "clinic-a" in admin("sites", "shapes").output
    assert "active" in admin("federations").output
    rounds = json.loads(admin("rounds", "shapes", "--json").stdout)
    assert [entry["round_number"] for entry in rounds] == [2, 1]
    assert Round.model_validate(rounds[0]).status == "published"
    assert json.loads(admin("rounds", "shapes", "--limit", 1, "--json").stdout) == rounds[:1]
    assert "statistics" in admin("rounds", "shapes").output
    round_id = rounds[0]["round_id"]
    assert round_id in admin("round", round_id).output
    assert json.loads(admin("round", round_id, "--json").stdout) == rounds[0]
    (update,) = json.loads(admin("updates", round_id, "--json").stdout)
    assert update["update_id"] in admin("updates", round_id).output
    assert "clinic-a" in admin("versions", "shapes").output
    assert update["digest"] in admin("version", "shapes", 2).output
    events = json.loads(admin("events", "shapes", "--limit", 3, "--json").stdout)
    assert len(events) == 3
    assert events == sorted(events, key=lambda event: event["event_id"])
    assert events[-1]["action"] in admin("events", "shapes").output


def test_an_empty_list_says_so(admin: Run) -> None:
    assert admin("federations").output.strip() == "none"
    assert json.loads(admin("federations", "--json").stdout) == []


def test_federations_and_sites_are_steered(admin: Run, coordinator: Coordinator, tmp_path: Path) -> None:
    coordinator.found()
    coordinator.enrol(tmp_path / "state", "clinic-a")
    (site,) = coordinator.admin.sites.list("shapes")
    for verb, status in (("suspend", "suspended"), ("reinstate", "active"), ("revoke", "revoked")):
        assert admin(verb, site.site_id).output.strip() == f"{site.site_id} is now {status}"
    for verb, status in (("pause", "paused"), ("resume", "active"), ("archive", "archived")):
        assert admin(verb, "shapes").output.strip() == f"shapes is now {status}"


def test_rounds_are_steered_and_versions_promoted(
    admin: Run, coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    coordinator.enrol(tmp_path / "state", "clinic-a").run(images / "train")
    result = admin("promote", "shapes", 1)
    assert result.output.strip() == "version 1 of shapes is now serving"
    assert coordinator.admin.federations.get("shapes").serving_version == 1
    begun = admin("start-round", "shapes")
    assert begun.exit_code == 0, begun.output
    newest = next(coordinator.admin.rounds.list("shapes"))
    assert newest.round_id in begun.output
    assert admin("abandon", newest.round_id).output.strip() == f"round {newest.round_id} is now abandoned"
    refused = admin("close", newest.round_id)
    assert refused.exit_code == 1
    assert refused.output.startswith("error: ")


def test_an_unknown_object_is_the_coordinators_own_words_and_exit_code_1(admin: Run) -> None:
    result = admin("rounds", "nowhere")
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert "nowhere" in result.output
    assert "Traceback" not in result.output


def test_a_coordinator_that_is_not_there_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pfedbayespt.cli.options.GIVE_UP_AFTER_SECONDS", 0.2)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        result = run("admin", "federations", "--url", url, "--token", "t")
    assert result.exit_code == 1
    assert f"error: cannot reach {url}" in result.output


def test_a_wrong_token_is_refused(run: Run, coordinator: Coordinator) -> None:
    result = run("admin", "federations", "--url", coordinator.url, "--token", "wrong")
    assert result.exit_code == 1
    assert "error: " in result.output
