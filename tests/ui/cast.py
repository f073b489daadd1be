"""Where a federation is played for people to see, and the sites of it.

Rules:
1. The coordinator is a real one that listens, with a small real backbone that it can answer with.
2. What the sites send, and report of versions, is made up here; the coordinator takes it as it takes any site's.
3. Its clock moves where this says so, so that a round's picture shows who came when.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from tests.server.harness import ADMIN_TOKEN, Coordinator, SiteCaller, check, running, settings_for
from tests.server.serving_parts import Arrays, tiny_backbone
from tests.ui.conftest import Place, listening

from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.protocol import SigningKey, UpdateManifest, tensors
from pfedbayespt.server import ServerRole

PAGE: Final = Path(__file__).parents[2] / "docs/how-to/steer-a-federation.md"
NAME: Final = "field-guide"
CLASSES: Final = ("bird", "fruit", "tool")
SITES: Final = (("north", "museum-north"), ("south", "museum-south"), ("west", "gardens-west"))
ACCURACY: Final = (0.52, 0.66, 0.74)
DROPPED: Final = 0.58


@dataclass(frozen=True)
class Stage:
    """Where it is played."""

    coordinator: Coordinator
    url: str
    backbone: BackboneConfig
    weights: Path

    @property
    def place(self) -> Place:
        """Where a browser finds it."""
        return Place(self.coordinator, self.url)


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """Yield a coordinator without a federation, which can answer with a tiny ViT."""
    weights = folder / "backbones" / "vit"
    backbone = tiny_backbone(weights.parent, weights.name, seed=1)  # not the one in the API's examples
    roles = frozenset({ServerRole.COORDINATOR, ServerRole.INFERENCE})
    settings = settings_for(folder / "data", roles=roles, backbone_cache_dir=weights.parent)
    with running(settings) as coordinator, listening(coordinator.http.app) as url:
        yield Stage(coordinator, url, backbone, weights)


@dataclass
class Cast:
    """The sites."""

    stage: Stage
    sites: list[SiteCaller] = field(default_factory=list)

    @property
    def coordinator(self) -> Coordinator:
        """The one that they take part at."""
        return self.stage.coordinator

    def enrol(self, token: str, name: str) -> None:
        """Redeem a token as the organisation does."""
        coordinator, key = self.coordinator, SigningKey.generate()
        body = coordinator.enrolment(token, name, key)
        answer = coordinator.anonymous().post("/v1/sites", body, status=201)
        site = SiteCaller(
            coordinator.http, None, answer["site"]["site_id"], NAME, key, answer["coordinator"]["key_id"]
        )
        site.log_in()
        self.sites.append(site)

    def learn(self) -> None:
        """Have the round of statistics and three of training, with what the sites say of each version."""
        coordinator = self.coordinator
        coordinator.settle()
        for accuracy in (None, *ACCURACY):
            for site in self.sites:
                coordinator.clock.move(20)
                self.train(site)
            coordinator.settle()
            if accuracy is not None:
                self.report(accuracy)
            coordinator.clock.move(40)

    def initial_file(self) -> bytes:
        """Do as the page says that tells admins how to write version 0."""
        (command,) = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        known = {"PATH": programs, "PFEDBAYESPT_URL": self.stage.url, "PFEDBAYESPT_TOKEN": ADMIN_TOKEN}
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(self.stage.weights, Path(folder) / "backbone.safetensors")
            subprocess.run(
                ["bash", "-euc", command], cwd=folder, env=os.environ | known, check=True, timeout=120
            )
            return (Path(folder) / "version-0.safetensors").read_bytes()

    def train(self, site: SiteCaller) -> None:
        """Send an update that is fine."""
        check(self.send(site, 0.06), 201)

    def send(self, site: SiteCaller, size: float) -> Any:
        """Send an update whose numbers are about that large, and share a direction with the other sites'."""
        round_ = site.assignment()["round"]
        arrays = self.coordinator.parameters(round_["base_version"], NAME)
        facts = {"federation": NAME, "round_id": round_["round_id"], "task": round_["task"]}
        claims = {"base_digest": round_["base_digest"], "num_examples": 120, "metrics": {"loss": 0.8}}
        content = tensors.encode(
            _deltas(arrays, round_, size, self.sites.index(site)), UpdateManifest(**facts, **claims)
        )
        return site.submit_file(round_["round_id"], content)

    def report(self, accuracy: float, step: float = 0.03) -> None:
        """Say how the candidate does at each site, at each a `step` worse than at the one before it."""
        for number, site in enumerate(self.sites):
            version = site.assignment()["model_version"]
            seen = accuracy - step * number
            metrics = {"accuracy": seen, "nll": 2 - 1.6 * seen, "ece": 0.2 - 0.2 * seen}
            path = f"/v1/federations/{NAME}/model-versions/{version}/evaluations/{site.site_id}"
            check(site.request("PUT", path, json={"num_examples": 60, "metrics": metrics}), 200)
        self.coordinator.settle()


def _deltas(arrays: Arrays, round_: dict[str, Any], size: float, site: int) -> Arrays:
    common = np.random.default_rng([round_["round_number"]])
    own = np.random.default_rng([round_["round_number"], site])
    is_statistics = round_["task"] == "statistics"
    deltas = {}
    for name, array in arrays.items():
        drawn = common.normal(size=array.shape) + 0.8 * own.normal(size=array.shape)
        if is_statistics:
            drawn = np.full_like(array, 0.1)
        counts = name.startswith("statistics.") == is_statistics
        deltas[name] = (size * drawn * counts).astype(array.dtype)
    return deltas
