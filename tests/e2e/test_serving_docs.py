"""The commands and lines of docs/serving.md, run as they stand against a real server with a tiny transformer."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from stage import FEDERATION, staged

from pfedbayespt.model.backbone import random_backbone

_PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text()

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]


def blocks(language: str, containing: str) -> list[str]:
    """The page's code blocks that hold `containing`, about the test's federation."""
    found = re.findall(rf"```{language}\n(.*?)```", _PAGE, flags=re.DOTALL)
    return [text.replace("ideograms", FEDERATION) for text in found if containing in text]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A reader's folder with two images, and the environment that the page asks for."""
    folder = tmp_path_factory.mktemp("reader")
    for name, colour in (("new.png", "red"), ("other.png", "blue")):
        Image.new("RGB", (60, 50), colour).save(folder / name)
    weights = folder / "backbones" / "tiny.safetensors"
    weights.parent.mkdir()
    config = random_backbone(weights)
    with staged(folder, weights.parent, weights, config) as stage:
        yield (
            folder,
            os.environ | {"PFEDBAYESPT_URL": stage.url, "PFEDBAYESPT_TOKEN": stage.admin_token},
        )


def run(reader: tuple[Path, dict[str, str]], *command: str) -> str:
    folder, environment = reader
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_one_image_is_answered_with_three_classes(reader: tuple[Path, dict[str, str]]) -> None:
    (command,) = blocks("sh", "predictions?num_samples=16")
    answer = json.loads(run(reader, "sh", "-c", command))
    assert len(answer["probabilities"]) == 3
    assert answer["num_samples"] == 16


def test_several_images_are_answered_one_by_one(reader: tuple[Path, dict[str, str]]) -> None:
    (command,) = blocks("sh", "predictions/batch")
    items = json.loads(run(reader, "sh", "-c", command))["items"]
    assert [item["status"] for item in items] == [200, 200]


def test_the_open_inference_protocol_answers_curl(reader: tuple[Path, dict[str, str]]) -> None:
    (command,) = blocks("sh", "/v2/models/")
    answer = json.loads(run(reader, "sh", "-c", command))
    assert (answer["model_name"], answer["model_version"]) == (FEDERATION, "1")


def test_the_open_inference_protocol_answers_its_client(reader: tuple[Path, dict[str, str]]) -> None:
    (program,) = blocks("python", "tritonclient")
    label, entropy = run(reader, sys.executable, "-c", program).split()
    assert label.startswith("class-")
    assert float(entropy) >= 0


def test_a_version_is_tried_and_compared_beside_the_one_that_serves(
    reader: tuple[Path, dict[str, str]],
) -> None:
    (commands,) = blocks("sh", "/trials")
    started, _, listed = run(reader, "sh", "-c", commands.replace("\ncurl", "; echo; curl")).partition("\n")
    trial = json.loads(started)
    assert (trial["model_version"], trial["serving_version"], trial["status"]) == (0, 1, "running")
    assert [one["trial_id"] for one in json.loads(listed)["items"]] == [trial["trial_id"]]
    (question,) = blocks("sh", "predictions?num_samples=16")
    (read,) = re.findall(r"^curl .*trials\"$", commands, flags=re.MULTILINE)
    for _ in range(50):
        run(reader, "sh", "-c", question)
        (seen,) = json.loads(run(reader, "sh", "-c", read))["items"]
        if seen["tally"]["num_compared"]:
            return
    raise AssertionError(f"nothing was compared: {seen}")


def test_encoded_images_are_forgotten_where_none_are_kept(reader: tuple[Path, dict[str, str]]) -> None:
    (command,) = blocks("sh", "/v1/feature-cache")
    assert json.loads(run(reader, "sh", "-c", command)) == {"num_bytes": 0}


def test_no_command_of_the_page_is_left_out() -> None:
    tried = (
        "predictions?num_samples=16",
        "predictions/batch",
        "/v2/models/",
        "/trials",
        "/v1/feature-cache",
        "export PFEDBAYESPT_URL",
    )
    assert all(any(part in text for part in tried) for text in blocks("sh", ""))
    assert len(blocks("python", "")) == 1
