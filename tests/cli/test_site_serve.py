"""A site's own inference server: the coordinator's, with this site's parameters."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.cli.conftest import Run
from tests.client_sdk.harness import Coordinator, coordinating, serving
from tests.client_sdk.transports import Spy

from pfedbayespt.cli.site_server import SiteInference, create_site_app, refreshing
from pfedbayespt.client import HttpRequest, Site, Timeouts, TransportError
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.protocol import Prediction

PATH = "/v1/federations/shapes/predictions"


@pytest.fixture(scope="module")
def complete(
    tmp_path_factory: pytest.TempPathFactory,
    backbone_file: Path,
    backbone_config: BackboneConfig,
    images: Path,
) -> Iterator[tuple[Coordinator, Site]]:
    """A complete federation, whose coordinator answers predictions too, and a site of it."""
    folder = tmp_path_factory.mktemp("complete")
    answering = {"roles": ["coordinator", "inference"], "backbone_cache_dir": backbone_file.parent}
    with coordinating(folder / "coordinator", backbone_file, backbone_config, **answering) as coordinator:
        head = {"label_shift": True}
        coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1, head=head)
        site = coordinator.enrol(folder / "state", "clinic-a")
        site.run(images / "train", images / "held-out")
        yield coordinator, site


def ask(url: str, image: Path, **query: int) -> httpx.Response:
    return httpx.post(
        url + PATH,
        content=image.read_bytes(),
        params=query,
        headers={"Content-Type": "image/png"},
        timeout=60,
    )


def image_in(images: Path) -> Path:
    return images / "held-out" / "square" / "2-0.png"


def test_http_and_sdk_and_coordinator_agree_to_the_bit(
    complete: tuple[Coordinator, Site], images: Path
) -> None:
    coordinator, site = complete
    inference = SiteInference(site)
    inference.refresh()
    options = {"num_samples": 5, "seed": 7}
    with serving(create_site_app(inference, None)) as url:
        answer = ask(url, image_in(images), **options)
        assert answer.status_code == 200, answer.text
        at_home = Prediction.model_validate_json(answer.content)
        first = Prediction.model_validate_json(ask(url, image_in(images), model_version=1, **options).content)
    assert at_home == site.predict(image_in(images), **options)
    assert "sample;dur=" in answer.headers["Server-Timing"]

    assert first == site.predict(image_in(images), model_version=1, **options)
    there = coordinator.admin.predict("shapes", image_in(images).read_bytes(), **options)
    calibration = coordinator.admin.model_versions.get("shapes", there.model_version).calibration
    without_its_prior = replace(site.predictor(), class_prior=None, calibration=calibration)
    assert site.predictor().class_prior is not None
    assert there == without_its_prior.predict(image_in(images), **options)


def test_personal_parameters_are_applied_and_found_when_they_change(
    complete: tuple[Coordinator, Site], images: Path
) -> None:
    _, site = complete
    inference = SiteInference(site)
    inference.refresh()
    with serving(create_site_app(inference, None)) as url, refreshing(inference, 0.05):
        shared = Prediction.model_validate_json(ask(url, image_in(images)).content)
        site.adapt(images / "held-out", shots=2, insist=True)
        personal = site.predict(image_in(images))
        assert personal.probabilities != shared.probabilities
        for _ in range(200):
            answer = Prediction.model_validate_json(ask(url, image_in(images), num_samples=16).content)
            if answer.probabilities != shared.probabilities:
                break
    assert answer == personal


def test_a_version_is_swapped_without_a_request_failing_or_mixing_two(
    complete: tuple[Coordinator, Site], images: Path
) -> None:
    coordinator, site = complete
    inference = SiteInference(site)
    inference.refresh()
    seen: list[tuple[int, int]] = []
    done = threading.Event()

    def keep_asking(url: str) -> None:
        while not done.is_set():
            answer = ask(url, image_in(images))
            seen.append((answer.status_code, answer.json().get("model_version", -1)))

    with serving(create_site_app(inference, None)) as url:
        asking = threading.Thread(target=keep_asking, args=(url,))
        asking.start()
        for number in (1, 2, 1, 2):
            coordinator.admin.model_versions.promote("shapes", number)
            inference.refresh()
            assert ask(url, image_in(images)).json()["model_version"] == number
        done.set()
        asking.join()
    assert {status for status, _ in seen} == {200}
    assert {number for _, number in seen} <= {1, 2}


def test_a_coordinator_that_is_away_changes_nothing(complete: tuple[Coordinator, Site], images: Path) -> None:
    _, site = complete
    is_away = threading.Event()

    def fail(request: HttpRequest) -> HttpRequest:
        if is_away.is_set():
            raise TransportError("out of reach", sent=False)
        return request

    quickly = Timeouts(total_seconds=0.1)
    inference = SiteInference(Site.resume(site.directory, transport=Spy(before=fail), timeouts=quickly))
    inference.refresh()
    is_away.set()
    with serving(create_site_app(inference, None)) as url, refreshing(inference, 0.05):
        assert ask(url, image_in(images)).json()["model_version"] == 2
        unknown = ask(url, image_in(images), model_version=77)
        assert httpx.get(url + "/readyz").status_code == 200
    assert unknown.json()["type"] == "urn:pfedbayespt:problem:inference_unavailable"


def test_offline_there_is_one_version(complete: tuple[Coordinator, Site], images: Path) -> None:
    _, site = complete
    inference = SiteInference(Site.resume(site.directory), offline=True)
    inference.refresh()
    with serving(create_site_app(inference, None)) as url:
        assert ask(url, image_in(images), model_version=2).status_code == 200
        assert (
            ask(url, image_in(images), model_version=1).json()["type"] == "urn:pfedbayespt:problem:not_found"
        )


def test_refusals_are_the_coordinators(complete: tuple[Coordinator, Site], images: Path) -> None:
    _, site = complete
    inference = SiteInference(site)
    with serving(create_site_app(inference, "a-token")) as url:
        assert httpx.get(url + "/readyz").json()["type"] == "urn:pfedbayespt:problem:overloaded"
        inference.refresh()
        assert ask(url, image_in(images)).json()["type"] == "urn:pfedbayespt:problem:authentication_required"
        asked = {"headers": {"Authorization": "Bearer a-token", "Content-Type": "image/png"}}
        strange = httpx.post(url + PATH.replace("shapes", "other"), content=b"x", **asked)
        assert strange.json()["type"] == "urn:pfedbayespt:problem:not_found"
        no_image = httpx.post(url + PATH, content=b"no image", **asked)
        assert no_image.json()["type"] == "urn:pfedbayespt:problem:image_rejected"
        assert httpx.post(url + PATH, content=image_in(images).read_bytes(), **asked).status_code == 200


def test_an_address_that_others_can_reach_needs_a_token(run: Run, tmp_path: Path) -> None:
    result = run("site", "serve", tmp_path, "--host", "0.0.0.0")
    assert result.exit_code == 1
    assert "callers need a token" in result.output


def test_a_real_process_answers_and_ends_in_order(
    complete: tuple[Coordinator, Site], images: Path, tmp_path: Path
) -> None:
    _, site = complete
    command = [sys.executable, "-m", "pfedbayespt.cli.main", "site", "serve", str(site.directory)]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", "0"],
            stdout=output,
            stderr=output,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
        while b"Uvicorn running" not in log.read_bytes():
            assert process.poll() is None, log.read_text()
            threading.Event().wait(0.1)
        running = next(line for line in log.read_text().splitlines() if "Uvicorn running" in line)
        url = running.split("running on ")[1].split(" ")[0]
        assert url.startswith("http://127.0.0.1:")
        assert ask(url, image_in(images)).json()["federation"] == "shapes"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) in {0, -signal.SIGTERM}, log.read_text()
    assert "Application shutdown complete" in log.read_text()
