"""Versions are loaded before they are asked for; readiness comes once and stays; what is in house is answered."""

import asyncio
import signal
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import uvicorn
from tests.server.harness import ADMIN_TOKEN, Coordinator, problem_of, running, settings_for
from tests.server.test_predictions import IMAGE, PATH, EchoPredictor

from pfedbayespt.protocol import PredictionRequest
from pfedbayespt.server.errors import InferenceUnavailable
from pfedbayespt.server.predictions.predictor import Answer, ServableVersion
from pfedbayespt.server.predictions.preloading import Preloader, wanted_versions


class SlowPredictor(EchoPredictor):
    """Prepares and answers only when the test lets it; refuses versions of one federation."""

    def __init__(self) -> None:
        super().__init__()
        self.may_prepare, self.may_answer, self.prepares, self.answers = (threading.Event() for _ in range(4))
        self.prepared: list[tuple[str, int]] = []

    def prepare(self, version: ServableVersion) -> None:
        self.prepares.set()
        assert self.may_prepare.wait(timeout=60)
        self.prepared.append((version.federation, version.number))
        if version.federation == "broken":
            raise InferenceUnavailable("its backbone is not here")

    def predict(
        self, version: ServableVersion, request: PredictionRequest, site_id: str | None = None
    ) -> Answer:
        self.answers.set()
        assert self.may_answer.wait(timeout=60)
        return super().predict(version, request, site_id)


def wait_until_warm(coordinator: Coordinator) -> None:
    assert coordinator.context.is_warm.wait(timeout=60)


def test_the_process_is_ready_once_every_serving_version_was_tried(coordinator: Coordinator) -> None:
    for name in ("alpha", "broken"):
        coordinator.federation(name)
    coordinator.draft("gamma")
    coordinator.context.is_warm.clear()
    predictor = SlowPredictor()
    preloader = Preloader(coordinator.context, predictor, interval_seconds=0.01)
    preloader.start()
    try:
        assert predictor.prepares.wait(timeout=60)
        assert problem_of(coordinator.http.get("/readyz")) == "overloaded"
        predictor.may_prepare.set()
        wait_until_warm(coordinator)
        assert coordinator.http.get("/readyz").status_code == 200
    finally:
        preloader.stop()
    assert set(predictor.prepared) == {("alpha", 0), ("broken", 0)}
    assert predictor.prepared.count(("broken", 0)) == 1  # it is not tried over and over


def test_a_candidate_is_loaded_while_it_is_still_evaluated_and_readiness_never_flips(
    coordinator: Coordinator,
) -> None:
    coordinator.federation(num_rounds=1, min_sites_to_start=1, quorum=1)
    (site,) = coordinator.sites(1)
    coordinator.publish_statistics([site])
    site.train()
    coordinator.settle()
    candidate = coordinator.versions()[0]
    assert candidate["status"] == "candidate"
    assert [version.number for version in wanted_versions(coordinator.context)] == [1, 2]
    assert coordinator.http.get("/readyz").status_code == 200
    site.evaluate(0.5)
    coordinator.settle()
    assert coordinator.versions()[0]["status"] == "serving"
    assert coordinator.http.get("/readyz").status_code == 200


@pytest.mark.parametrize("waiting", [0, 2])
def test_what_is_in_house_when_the_process_is_told_to_end_is_answered(tmp_path: Path, waiting: int) -> None:
    predictor = SlowPredictor()
    with running(settings_for(tmp_path / "data")) as coordinator:
        state = coordinator.http.app.state
        state.predictions = replace(state.predictions, predictor=predictor)
        coordinator.federation()
        statuses = asyncio.run(_stop_while_answering(coordinator, predictor, num_requests=2 + waiting))
    assert statuses == [200] * (2 + waiting)


async def _stop_while_answering(
    coordinator: Coordinator, predictor: SlowPredictor, num_requests: int
) -> list[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            coordinator.http.app, lifespan="off", log_config=None, timeout_graceful_shutdown=20
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "image/png"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
            asked = [asyncio.create_task(client.post(PATH, content=IMAGE)) for _ in range(num_requests)]
            await asyncio.to_thread(predictor.answers.wait, 60)
            admission = coordinator.http.app.state.predictions.admission
            while admission.num_in_house < num_requests:
                await asyncio.sleep(0.01)
            server.handle_exit(signal.SIGTERM, None)
            await asyncio.sleep(0.1)
            predictor.may_answer.set()
            answers = await asyncio.gather(*asked)
        await asyncio.to_thread(thread.join)
    return [answer.status_code for answer in answers]
