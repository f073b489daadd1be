"""A coordinator with inference in a process of its own, and a federation with two versions to swap."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pfedbayespt.cli.founding import found
from pfedbayespt.client import CoordinatorClient
from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.demo.processes import running_coordinator
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.protocol import (
    BackboneSpecification,
    FederationSpecification,
    InsertionSpecification,
    Round,
    RoundPolicy,
    SigningKey,
    UpdateManifest,
    UpdateStatement,
    digest_of_bytes,
    tensors,
)
from pfedbayespt.server import Settings
from pfedbayespt.server.blobs import FolderBlobStore
from pfedbayespt.server.inference import make_predictor
from pfedbayespt.server.predictions.predictor import Predictor, ServableVersion

FEDERATION = "bench"
_NUM_CLASSES = 31
_POLL_SECONDS = 0.1
_NUM_EXAMPLES = 10


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
    interval = Settings.model_fields["worker_interval_seconds"].default
    with running_coordinator(folder, backbones, 0, worker_interval_seconds=interval) as coordinator:
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
    key = SigningKey.generate()
    token = admin.federations.create_enrolment_token(FEDERATION, "bench").token
    with CoordinatorClient(url) as anybody:
        coordinator_key_id = anybody.identity().key_id
        site_id = anybody.sites.enrol(token, "bench", key, coordinator_key_id).site.site_id
    with CoordinatorClient(url, SiteIdentity(site_id, key, coordinator_key_id)) as site:
        while (round_ := site.sites.assignment().round) is None:
            time.sleep(_POLL_SECONDS)
        content = _update(site.model_versions.download(FEDERATION, 0, round_.base_digest), round_)
        statement = UpdateStatement.signed(
            key,
            federation=FEDERATION,
            round_id=round_.round_id,
            site_id=site_id,
            base_digest=round_.base_digest,
            update_digest=digest_of_bytes(content),
            num_examples=_NUM_EXAMPLES,
            nonce="0" * 32,
        )
        site.updates.submit(statement, content)
    while admin.federations.get(FEDERATION).serving_version != 1:
        time.sleep(_POLL_SECONDS)


def _update(base: bytes, round_: Round) -> bytes:
    _, parameters = tensors.decode(base)
    deltas = {
        name: np.full_like(array, 0.01 if name.startswith("statistics.") else 0.0)
        for name, array in parameters.items()
    }
    manifest = UpdateManifest(
        federation=FEDERATION,
        round_id=round_.round_id,
        task=round_.task,
        base_digest=round_.base_digest,
        num_examples=_NUM_EXAMPLES,
    )
    return tensors.encode(deltas, manifest)
