"""Predictions by Ray Serve, on one node: what a replica answers is what the inference server answers."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.server.harness import ADMIN_TOKEN, running, settings_for
from tests.server.serving_parts import encoded, parameters_of, picture, specification_on, tiny_backbone

from pfedbayespt.client import CoordinatorClient, Timeouts
from pfedbayespt.client.errors import AuthenticationRequired, NotFound
from pfedbayespt.demo.processes import free_port
from pfedbayespt.protocol import ParametersManifest, Prediction, digest_of_message, tensors
from pfedbayespt.server.ray_serve import inference

IMAGE = encoded(picture())
PATH = "/v1/federations/alpha/predictions"
PAGE = Path(__file__).parents[2] / "docs/how-to/serve-on-ray.md"


def as_the_page_says() -> Any:
    """What `serve run <module>:<builder> <name>=<value> ...` deploys."""
    ((module, builder, words),) = re.findall(r"serve run ([\w.]+):(\w+) (.*)", PAGE.read_text())
    arguments = dict(word.split("=") for word in words.split())
    return getattr(import_module(module), builder)(arguments)


@pytest.fixture
def answered(tmp_path: Path) -> Prediction:
    """What the inference server says, before it stops and leaves its folder to Serve."""
    config = tiny_backbone(tmp_path / "backbones")
    terms = specification_on(config)
    arrays = parameters_of(terms, next((tmp_path / "backbones").iterdir()), seed=1)
    manifest = ParametersManifest(
        federation="alpha", specification_digest=digest_of_message(terms), version_number=0
    )
    settings = settings_for(
        tmp_path / "data", roles=["coordinator", "inference"], backbone_cache_dir=tmp_path / "backbones"
    )
    with running(settings) as coordinator:
        body = {"name": "alpha", "specification": terms.model_dump(mode="json")}
        coordinator.admin.post("/v1/federations", body, status=201)
        path = "/v1/federations/alpha/initial-parameters"
        assert coordinator.admin.put_file(path, tensors.encode(arrays, manifest)).status_code == 201
        coordinator.admin.post("/v1/federations/alpha/activate")
        headers = {"Content-Type": "image/png"}
        answer = coordinator.admin.request("POST", PATH, content=IMAGE, headers=headers)
        return Prediction.model_validate_json(answer.content)


@pytest.fixture
def serve_url(answered: Prediction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address at which Serve answers, on the folder that the inference server left."""
    pytest.importorskip("ray.serve", reason="without the extra `ray`")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # a busy machine starves what is nicer than the rest
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "50")  # 5, then it is killed
    for name, value in {
        "ADMIN_TOKEN": ADMIN_TOKEN,
        "DATA_DIR": str(tmp_path / "data"),
        "BACKBONE_CACHE_DIR": str(tmp_path / "backbones"),
    }.items():
        monkeypatch.setenv(f"PFEDBAYESPT_{name}", value)
    import ray
    from ray import serve

    port = free_port()
    ray.init(include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(as_the_page_says())
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.e2e
def test_a_replica_answers_with_the_numbers_of_the_inference_server(
    serve_url: str, answered: Prediction
) -> None:
    patient = Timeouts(total_seconds=120.0)
    with CoordinatorClient(serve_url, ADMIN_TOKEN, timeouts=patient) as client:
        prediction = client.predict("alpha", IMAGE)
        assert client.is_ready()
        with pytest.raises(NotFound):
            client.federations.get("alpha")  # rounds and sites are the coordinator's
    assert prediction.probabilities == answered.probabilities
    assert (prediction.model_digest, prediction.seed) == (answered.model_digest, answered.seed)
    with CoordinatorClient(serve_url, "x" * 40) as stranger, pytest.raises(AuthenticationRequired):
        stranger.predict("alpha", IMAGE)


def test_an_unknown_argument_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.serve", reason="without the extra `ray`")
    monkeypatch.setenv("PFEDBAYESPT_ADMIN_TOKEN", ADMIN_TOKEN)
    with pytest.raises(ValidationError, match="replicas"):
        inference({"replicas": 2})


def test_an_argument_of_the_command_line_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray.serve", reason="without the extra `ray`")
    monkeypatch.setenv("PFEDBAYESPT_ADMIN_TOKEN", ADMIN_TOKEN)
    assert inference({"num_replicas": "2"})._bound_deployment.num_replicas == 2
