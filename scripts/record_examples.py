"""Play a small federation against the real coordinator, and write down what was asked and answered.

    python -m scripts.record_examples      # `make examples`; then `make openapi`

1. Three hospitals enrol, agree on statistics, train twice and evaluate; one update is refused; a version is tried.
2. Of each operation the last success counts, by its status, with the body that asked for it, as they came.
3. Of what is secret only the place is shown: tokens, API keys and signed assertions are replaced.
"""

import base64
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl

import httpx
import numpy as np
from tests.server.harness import Coordinator, SiteCaller, check, rotate, running, settings_for
from tests.server.serving_parts import (
    Arrays,
    encoded,
    file_of,
    parameters_of,
    picture,
    specification_on,
    tiny_backbone,
)

from pfedbayespt.protocol import SiteLeave, UpdateManifest, tensors
from pfedbayespt.server.openapi import RECORDING
from pfedbayespt.server.settings import ServerRole
from pfedbayespt.server.trials.writing import TallyWriter

Json = dict[str, Any]
NAME: Final = "skin-lesions"
HOME: Final = f"/v1/federations/{NAME}"
MODEL: Final = f"/v2/models/{NAME}"
ROLES: Final = frozenset({ServerRole.COORDINATOR, ServerRole.INFERENCE})
SERVING: Final[Json] = {"roles": ROLES, "feature_cache_bytes": 2**20}
HOSPITALS: Final = ("hospital-north", "hospital-south", "hospital-west")
PATIENCE_SECONDS: Final = 60.0
SECRETS: Final = {
    "token": "enr_THE-TOKEN-COMES-HERE",
    "key": "fp_live_THE-KEY-COMES-HERE",
    "access_token": "THE-ACCESS-TOKEN-COMES-HERE",
    "client_assertion": "THE-SIGNED-ASSERTION-COMES-HERE",
}


def record() -> Json:
    """Play, and return the recording: requests and answers by operation."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = tiny_backbone(folder / "backbones", "vit")
        settings = settings_for(folder / "data", **SERVING, backbone_cache_dir=folder / "backbones")
        with running(settings) as coordinator:
            recorder = Recorder(coordinator.http.app.openapi())
            coordinator.http.event_hooks = {"response": [recorder.hear]}
            play(coordinator, specification_on(config), folder / "backbones/vit")
            return recorder.recording


class Recorder:
    """Keeps of each operation what was asked and answered last."""

    def __init__(self, document: Json) -> None:
        self.recording: Json = {}
        paths = sorted(document["paths"], key=lambda path: path.count("{"))
        self._paths = [(path, re.compile(re.sub(r"{\w+}", "[^/]+", path))) for path in paths]

    def hear(self, response: httpx.Response) -> None:
        """Note a success that is JSON, and its request."""
        response.read()
        if not response.is_success or response.headers.get("content-type") != "application/json":
            return
        path = next(path for path, form in self._paths if form.fullmatch(response.request.url.path))
        entry = self.recording.setdefault(f"{response.request.method} {path}", {"answers": {}})
        entry["answers"][str(response.status_code)] = without_secrets(response.json())
        asked = body_of(response.request)
        if asked is not None:
            entry["request"] = without_secrets(asked)


def body_of(request: httpx.Request) -> Any:
    """Return a request's body if it is text."""
    kind = request.headers.get("content-type", "")
    if kind == "application/x-www-form-urlencoded":
        return dict(parse_qsl(request.content.decode()))
    return json.loads(request.content) if kind == "application/json" else None


def without_secrets(value: Any) -> Any:
    """Return JSON with every secret replaced by what says that it belongs there."""
    if isinstance(value, list):
        return [without_secrets(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: SECRETS[name] if name in SECRETS and isinstance(each, str) else without_secrets(each)
        for name, each in value.items()
    }


def play(coordinator: Coordinator, agreed: Any, weights: Path) -> None:
    """Go through the life of a federation."""
    agreed = agreed.model_copy(update={"classes": ("benign", "malignant", "unsure")})
    policy = {"num_rounds": 12, "min_sites_to_start": 3, "quorum": 2, "max_accuracy_drop": 0.05}
    agreed = agreed.model_copy(update={"rounds": agreed.rounds.model_copy(update=policy)})
    initial = parameters_of(agreed, weights, seed=0)
    found(coordinator, agreed, file_of(initial, agreed, 0, NAME))
    sites = enrol(coordinator)
    for task_value in (0.001, 0.002, 0.004):
        train(coordinator, sites, initial, task_value)
    steer(coordinator, sites, initial)
    ask(coordinator)
    compare(coordinator)
    look_around(coordinator, sites)
    part(coordinator, sites)


def found(coordinator: Coordinator, agreed: Any, initial: bytes) -> None:
    """Register the hospitals, and bring the federation to life."""
    admin = coordinator.admin
    for hospital in HOSPITALS:
        admin.post("/v1/organisations", {"name": hospital}, status=201)
    body = {"name": NAME, "specification": agreed.model_dump(mode="json", exclude_none=True)}
    admin.post("/v1/federations", body, status=201)
    for status in (201, 200):
        check(admin.put_file(f"{HOME}/initial-parameters", initial), status)
    admin.post(f"{HOME}/activate")
    admin.get("/v1/organisations/hospital-north")


def enrol(coordinator: Coordinator) -> list[SiteCaller]:
    """Let each hospital's site in; one of them changes its key."""
    coordinator.anonymous().get("/.well-known/pfedbayespt-coordinator")
    sites = [coordinator.enrol(NAME, f"radiology-{one[9:]}", one) for one in HOSPITALS]
    rotate(sites[0])
    return sites


def submit(site: SiteCaller, arrays: Arrays, value: float, status: int = 201) -> httpx.Response:
    """Send an update of that value in every number of which the round's task speaks, and expect that status."""
    round_ = site.assignment()["round"]
    deltas = {
        name: np.full_like(
            array, value * (name.startswith("statistics.") == (round_["task"] == "statistics"))
        )
        for name, array in arrays.items()
    }
    facts = {"federation": NAME, "round_id": round_["round_id"], "task": round_["task"]}
    claims = {"base_digest": round_["base_digest"], "num_examples": 128, "metrics": {"loss": 0.83}}
    content = tensors.encode(deltas, UpdateManifest(**facts, **claims))
    statement = site.statement(round_["round_id"], content)
    response = site.submit_file(round_["round_id"], content, statement=statement)
    if status == 201:
        check(response, 201)
        check(site.submit_file(round_["round_id"], content, statement=statement), 200)
    return response


def train(coordinator: Coordinator, sites: list[SiteCaller], arrays: Arrays, value: float) -> None:
    """Have one round, and its version evaluated where that is asked for."""
    coordinator.settle()
    for number, site in enumerate(sites):
        submit(site, arrays, value * (1 + number / 10))
    coordinator.settle()
    for site in sites:
        assignment = site.assignment()
        if assignment["action"] == "evaluate":
            evaluate(site, assignment["model_version"])
    coordinator.settle()
    coordinator.clock.move(90)


def evaluate(site: SiteCaller, number: int) -> None:
    """Report how a version did on a site's own images."""
    body = {"num_examples": 64, "metrics": {"accuracy": 0.81, "nll": 0.55, "ece": 0.04}}
    path = f"{HOME}/model-versions/{number}/evaluations/{site.site_id}"
    check(site.request("PUT", path, json=body), 200)


def steer(coordinator: Coordinator, sites: list[SiteCaller], arrays: Arrays) -> None:
    """Refuse an update, abandon a round, close one, and roll back and forth."""
    admin = coordinator.admin
    coordinator.settle()
    refusing = coordinator.live_round(NAME)["round_id"]
    check(submit(sites[1], arrays, 1e9, status=422), 422)
    admin.post(f"/v1/rounds/{refusing}/abandon")
    admin.post(f"{HOME}/pause")
    admin.post(f"{HOME}/resume")
    live = admin.post(f"{HOME}/rounds", status=201)["round_id"]
    for site in sites[::2]:
        submit(site, arrays, 0.008)
    admin.post(f"/v1/rounds/{live}/close")
    coordinator.settle()
    for site in sites:
        if site.assignment()["action"] == "evaluate":
            evaluate(site, site.assignment()["model_version"])
    coordinator.settle()
    admin.post(f"{HOME}/model-versions/2/promote")
    admin.get(f"/v1/rounds/{live}")
    updates = admin.get(f"/v1/rounds/{live}/updates?limit=2")["items"]
    admin.get(f"/v1/updates/{updates[0]['update_id']}")
    admin.get(f"/v1/updates/{updates[0]['update_id']}/receipt")
    admin.get(f"/v1/rounds/{refusing}/updates")
    sites[0].assignment()


def ask(coordinator: Coordinator) -> None:
    """Ask for predictions in every way that is JSON."""
    admin, image = coordinator.admin, base64.b64encode(encoded(picture(size=(8, 8)))).decode()
    options = {"num_samples": 16, "top_k": 3}
    admin.post(f"{HOME}/predictions", {"image": image, **options})
    no_image = base64.b64encode(b"no image").decode()
    admin.post(f"{HOME}/predictions/batch", {"images": [image, no_image], **options})
    admin.get("/v2")
    admin.get("/v2/health/live")
    admin.get("/v2/health/ready")
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [image]}
    for path in (MODEL, f"{MODEL}/versions/1"):
        admin.get(path)
        admin.get(f"{path}/ready")
        admin.post(f"{path}/infer", {"inputs": [tensor], "parameters": {"num_samples": 16}})
    admin.post(f"{HOME}/predictions", {"image": image, **options})
    check(admin.request("DELETE", "/v1/feature-cache"), 200)


def compare(coordinator: Coordinator) -> None:
    """Try a version beside the one that serves, until one answer of both was compared."""
    admin, path = coordinator.admin, f"{HOME}/trials"
    terms = {"model_version": 3, "answer_share": 0.0, "compare_share": 1.0}
    trial = admin.post(path, terms, status=201)["trial_id"]
    image = encoded(picture(size=(8, 8)))
    headers = {"Content-Type": "image/png"}
    check(admin.request("POST", f"{HOME}/predictions?num_samples=16", content=image, headers=headers), 200)

    def is_compared() -> bool:
        predictions = coordinator.http.app.state.predictions  # type: ignore[attr-defined]
        TallyWriter(coordinator.context.database, predictions.tallies, 1.0).write()
        return bool(admin.get(f"{path}/{trial}")["tally"]["num_compared"])

    wait_until(is_compared)
    admin.get(path)
    admin.post(f"{path}/{trial}/stop")


def wait_until(is_so: Callable[[], bool]) -> None:
    """Ask until it is so: comparisons come after the answers."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError("the versions' answers were never compared")
        time.sleep(0.05)


def look_around(coordinator: Coordinator, sites: list[SiteCaller]) -> None:
    """Read every list and what has not been read before."""
    admin = coordinator.admin
    coordinator.context.is_warm.wait(PATIENCE_SECONDS)
    key = {"organisation": HOSPITALS[0], "name": "reading-room", "role": "predictor"}
    admin.post(f"{HOME}/api-keys", key, status=201)
    api_key = admin.get(f"{HOME}/api-keys")["items"][0]["api_key_id"]
    admin.post(f"/v1/api-keys/{api_key}/revoke")
    for path in ("/v1/organisations?limit=2", "/v1/federations", "/livez", "/readyz", HOME):
        admin.get(path)
    for path in ("organisations", "sites", "rounds", "model-versions", "events"):
        admin.get(f"{HOME}/{path}?limit=2")
    for path in ("model-versions/2", "model-versions/2/lineage"):
        admin.get(f"{HOME}/{path}")
    for path in ("keys", ""):
        sites[0].get(f"/v1/sites/me/{path}".rstrip("/"))


def part(coordinator: Coordinator, sites: list[SiteCaller]) -> None:
    """Have a site suspended, reinstated and revoked, another leave, and the federation come to its end."""
    admin = coordinator.admin
    for verb in ("suspend", "reinstate", "revoke"):
        admin.post(f"/v1/sites/{sites[2].site_id}/{verb}")
    leave = SiteLeave.signed(sites[1].key, site_id=sites[1].site_id, site_name="radiology-south")
    sites[1].post("/v1/sites/me/leave", leave.model_dump(mode="json"))
    admin.post(f"{HOME}/archive")


def main() -> int:
    """Write the recording."""
    recording = record()
    text = json.dumps(recording, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    RECORDING.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{RECORDING}: {len(recording)} operations\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
