"""A coordinator with inference in a process of its own, and a federation with two versions to swap."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pfedbayespt.cli.founding import found
from pfedbayespt.client import CoordinatorClient
from pfedbayespt.demo.processes import running_coordinator
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.protocol import (
    BackboneSpecification,
    FederationSpecification,
    InsertionSpecification,
    RoundPolicy,
    UpdateManifest,
    tensors,
)
from pfedbayespt.server.blobs import FolderBlobStore
from pfedbayespt.server.inference import make_predictor
from pfedbayespt.server.predictions.predictor import Predictor, ServableVersion

FEDERATION = "bench"
_NUM_CLASSES = 31
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Stage:
    """A coordinator that answers.

    Attributes:
        url: its address.
        admin_token: what an admin sends.
        versions: the digest of each version, by number.
        version: the one that serves at first, as the server's own predictor takes it.
        predictor: the same predictor in this process, on the same files.
    """

    url: str
    admin_token: str
    versions: dict[int, str]
    version: ServableVersion
    predictor: Predictor

    @property
    def path(self) -> str:
        """Where predictions are asked for."""
        return f"/v1/federations/{FEDERATION}/predictions"

    def promote(self, number: int) -> None:
        """Let that version serve."""
        with CoordinatorClient(self.url, self.admin_token) as admin:
            admin.model_versions.promote(FEDERATION, number)


@contextmanager
def staged(folder: Path, backbones: Path, weights: Path, config: BackboneConfig) -> Iterator[Stage]:
    """Yield a coordinator that has learnt of two versions and serves the second."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the coordinator computes two answers at once
    with running_coordinator(folder, backbones, 0) as coordinator:
        with CoordinatorClient(coordinator.url, coordinator.admin_token) as admin:
            federation = found(admin, FEDERATION, _specification(config), weights, activate=True)
            _publish_statistics(coordinator.url, admin)
            versions = {
                version.version_number: version.digest for version in admin.model_versions.list(FEDERATION)
            }
        last = max(versions)
        version = ServableVersion(
            FEDERATION, federation.specification, federation.specification_digest, last, versions[last]
        )
        predictor = make_predictor(FolderBlobStore(folder / "coordinator"), backbones)
        yield Stage(coordinator.url, coordinator.admin_token, versions, version, predictor)


def picture(folder: Path, size: int = 640) -> bytes:
    """Return a photograph-like JPEG file: noise, smoothed, as large as a phone would send for a preview."""
    file = folder / "picture.jpg"
    Image.effect_noise((size, size), 80).resize((size // 8, size // 8)).resize((size, size)).convert(
        "RGB"
    ).save(file)
    return file.read_bytes()


def _specification(config: BackboneConfig) -> FederationSpecification:
    return FederationSpecification(
        classes=tuple(f"class-{number:02d}" for number in range(_NUM_CLASSES)),
        backbone=BackboneSpecification(
            architecture=config.architecture,
            weights_digest=config.weights_digest,
            image_size_pixels=config.image_size_pixels,
        ),
        insertion=InsertionSpecification(num_blocks=3),
        rounds=RoundPolicy(min_sites_to_start=1, quorum=1, num_rounds=1),
    )


def _publish_statistics(url: str, admin: CoordinatorClient) -> None:
    """Play a site that moves every statistic a little, which makes version 1."""
    token = admin.federations.create_enrolment_token(FEDERATION, "bench").token
    with CoordinatorClient(url) as anybody:
        credentials = anybody.sites.enrol(token, "bench")
    with CoordinatorClient(url, credentials.secret) as site:
        while (assignment := site.sites.assignment()).round is None:
            time.sleep(_POLL_SECONDS)
        round_ = assignment.round
        base = site.model_versions.download(FEDERATION, 0, round_.base_digest)
        site.updates.submit(
            round_.round_id, credentials.site.site_id, _update(base, round_.round_id, round_.base_digest)
        )
    while admin.federations.get(FEDERATION).serving_version != 1:
        time.sleep(_POLL_SECONDS)


def _update(base: bytes, round_id: str, base_digest: str) -> bytes:
    _, parameters = tensors.decode(base)
    deltas = {
        name: (array * 0 + 0.01 * name.startswith("statistics.")).astype(array.dtype)
        for name, array in parameters.items()
    }
    manifest = UpdateManifest(
        federation=FEDERATION, round_id=round_id, task="statistics", base_digest=base_digest, num_examples=10
    )
    return tensors.encode(deltas, manifest)
