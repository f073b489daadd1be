"""An organisation's commands against a real coordinator, with real training on tiny images."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.conftest import Run
from tests.client_sdk.harness import Coordinator, draw_images

from pfedbayespt.protocol import Evaluation, Prediction, SiteStatus


@pytest.fixture
def enrolled(run: Run, coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state directory of an enrolled site of a federation that one site suffices for."""
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    directory = tmp_path / "state"
    with monkeypatch.context() as patched:
        patched.setenv("PFEDBAYESPT_TOKEN", coordinator.invite())
        words = ["--name", "clinic-a", "--directory", directory, "--backbone", coordinator.backbone_file]
        result = run("site", "enrol", coordinator.url, *words)
    assert result.exit_code == 0, result.output
    assert "site clinic-a has joined shapes" in result.output
    assert "classes (folder names): circle, square, stripe" in result.output
    return directory


def test_a_site_is_checked_run_asked_and_removed(
    run: Run, coordinator: Coordinator, enrolled: Path, images: Path
) -> None:
    checked = run("site", "check", enrolled, "--train", images / "train", "--held-out", images / "held-out")
    assert checked.exit_code == 0, checked.output
    for subject in ("machine", "disk", "enrolment", "coordinator", "backbone", "training images", "speed"):
        assert subject in checked.output
    assert "24 images in 3 of 3 classes, 8 to 8 per class" in checked.output
    assert "ms for a batch of 8 on cpu in float32" in checked.output
    assert "all images fit into memory encoded: --cache-gib 0.1" in checked.output
    assert re.search(r"clock: \d s (ahead of|behind) the coordinator's", checked.output)

    done = run("site", "run", enrolled, "--train", images / "train", "--held-out", images / "held-out")
    assert done.exit_code == 0, done.output
    assert "site clinic-a has contributed to 2 rounds of shapes" in done.output

    status = run("site", "status", enrolled)
    assert "rounds      2 published, 1 of training planned" in status.output
    assert "serving     version 2" in status.output
    assert json.loads(run("site", "status", enrolled, "--json").stdout)["progress"]["rounds_contributed"] == 2

    image = images / "held-out" / "square" / "2-0.png"
    answer = Prediction.model_validate_json(run("site", "predict", enrolled, image, "--json").stdout)
    assert answer.model_version == 2
    shown = run("site", "predict", enrolled, image, "--top-k", 1, "--offline").output
    assert shown.splitlines()[0] == answer.label
    assert f"seed {answer.seed}" in shown
    assert "nats" in shown

    reported = coordinator.admin.model_versions.get("shapes", 2).evaluations[0].evaluation
    evaluated = run("site", "evaluate", enrolled, images / "held-out", "--json")
    assert Evaluation.model_validate_json(evaluated.stdout) == reported

    few = images / "held-out"
    adapted = json.loads(run("site", "adapt", enrolled, few, "--shots", 2, "--insist", "--json").stdout)
    assert (adapted["num_tuned_on"], adapted["is_kept"], adapted["before"].keys()) == (
        6,
        True,
        adapted["after"].keys(),
    )
    told = run("site", "adapt", enrolled, few, "--shots", 2, "--head", "head").output
    assert "version 2, head tuned on 6 images, compared on 6" in told
    personal = Prediction.model_validate_json(run("site", "predict", enrolled, image, "--json").stdout)
    assert personal.probabilities != answer.probabilities

    left = run("site", "leave", enrolled, input="y\n")
    assert f"site clinic-a has left shapes; {enrolled} is removed" in left.output
    assert not enrolled.exists()
    (site,) = coordinator.admin.sites.list("shapes")
    assert site.status is SiteStatus.REVOKED


def test_leaving_asks_first(run: Run, enrolled: Path) -> None:
    assert run("site", "leave", enrolled, input="n\n").exit_code == 1
    assert enrolled.exists()
    assert run("site", "leave", enrolled, "--yes").exit_code == 0
    assert not enrolled.exists()


def test_a_site_can_be_removed_from_a_machine_that_reaches_no_coordinator(
    run: Run, coordinator: Coordinator, enrolled: Path
) -> None:
    (site,) = coordinator.admin.sites.list("shapes")
    left = run("site", "leave", enrolled, "--yes", "--local-only")
    assert f"Ask the admin of shapes to revoke {site.site_id}" in left.output
    assert not enrolled.exists()
    (site,) = coordinator.admin.sites.list("shapes")
    assert site.status is SiteStatus.ACTIVE


def test_an_unfit_site_is_told_everything_that_is_wrong_at_once(
    run: Run, coordinator: Coordinator, enrolled: Path, tmp_path: Path
) -> None:
    (site,) = coordinator.admin.sites.list("shapes")
    coordinator.admin.sites.revoke(site.site_id)
    train = draw_images(tmp_path / "train", 1, classes=("circle", "triangle"))
    result = run("site", "check", enrolled, "--train", train)
    assert result.exit_code == 1
    assert "'triangle'" in result.output
    assert "error: not fit: coordinator, training images" in result.output


def test_too_few_images_are_unfit_for_training_but_not_for_evaluation(
    run: Run, enrolled: Path, tmp_path: Path
) -> None:
    few = draw_images(tmp_path / "few", 1)
    result = run("site", "check", enrolled, "--train", few, "--held-out", few)
    assert "error: not fit: training images" in result.output
    assert "fit   held-out images: 3 images in 3 of 3 classes" in result.output


def test_bad_folders_are_an_error_message_not_a_traceback(run: Run, enrolled: Path, tmp_path: Path) -> None:
    train = draw_images(tmp_path / "train", 4)
    (train / "circle" / "broken.jpg").write_bytes(b"broken")
    result = run("site", "run", enrolled, "--train", train)
    assert result.exit_code == 1
    assert "error: 1 files cannot be read as images" in result.output
    done = run("site", "run", enrolled, "--train", train, "--skip-unreadable")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("command", ["run", "status", "check", "predict", "evaluate", "leave"])
def test_a_directory_without_a_site_says_so(run: Run, tmp_path: Path, command: str) -> None:
    draw_images(tmp_path / "images", 1)
    image = tmp_path / "images" / "circle" / "0-0.png"
    extra: dict[str, list[object]] = {
        "run": ["--train", tmp_path],
        "predict": [image],
        "evaluate": [tmp_path],
    }
    result = run("site", command, tmp_path / "nothing", *extra.get(command, []))
    assert result.exit_code == 1
    assert "holds no enrolled site; enrol one first" in result.output


def test_a_used_token_is_refused_in_the_coordinators_words(
    run: Run, coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.found()
    token = coordinator.invite()
    words = ["--token", token, "--backbone", coordinator.backbone_file, "--name"]
    assert (
        run("site", "enrol", coordinator.url, *words, "clinic-a", "--directory", tmp_path / "a").exit_code
        == 0
    )
    result = run("site", "enrol", coordinator.url, *words, "clinic-b", "--directory", tmp_path / "b")
    assert result.exit_code == 1
    assert "token" in result.output


def test_a_file_that_is_no_image_is_refused(run: Run, enrolled: Path, images: Path, tmp_path: Path) -> None:
    run("site", "run", enrolled, "--train", images / "train")
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    result = run("site", "predict", enrolled, text)
    assert result.exit_code == 1
    assert "error: " in result.output


def test_several_directories_are_taken_up_in_turn_and_share_what_was_encoded(
    run: Run, coordinator: Coordinator, tmp_path: Path, images: Path
) -> None:
    states = []
    for federation in ("shapes", "shapes-again"):
        coordinator.found(federation, num_rounds=1, min_sites_to_start=1, quorum=1)
        states.append(tmp_path / federation)
        coordinator.enrol(states[-1], "clinic-a", federation)
    store = tmp_path / "contexts"
    done = run("site", "run", *states, "--train", images / "train", "--store", store)
    assert done.exit_code == 0, done.output
    first, second = (f"contributed to 2 rounds of {name}" for name in ("shapes\n", "shapes-again\n"))
    assert done.output.index(first) < done.output.index(second)
    # One chunk of training images and one of held-out ones, encoded for the first and found by the second.
    assert len(list(store.rglob("*.safetensors"))) == 2
    assert not (states[0] / "contexts").exists()


def test_an_interrupted_process_ends_in_order_and_can_go_on(
    run: Run, coordinator: Coordinator, tmp_path: Path, images: Path
) -> None:
    """A real process, since signals go to processes; it waits for a second site that never comes."""
    coordinator.found(min_sites_to_start=2)
    coordinator.enrol(tmp_path / "state", "clinic-a")
    command = [sys.executable, "-m", "pfedbayespt.cli.main", "site", "run", str(tmp_path / "state")]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--train", str(images / "train"), "--verbose"],
            stderr=output,
            stdout=output,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while b"nothing to do" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, log.read_text()
    assert "stopped on request" in log.read_text()
    assert "has contributed to 0 rounds" in log.read_text()
    key_file = tmp_path / "state" / "signing.key"
    secret = key_file.read_text().splitlines()[1]
    assert secret not in log.read_text()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
