"""A real coordinator on the loopback interface, a tiny random ViT, and small synthetic images."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image

from pfedbayespt.cli.founding import found
from pfedbayespt.client import CoordinatorClient, Site, Timeouts
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.protocol import Federation, FederationSpecification
from pfedbayespt.server import Settings, create_app

ADMIN_TOKEN = "admin-token-of-at-least-32-characters"
CLASSES = ("circle", "square", "stripe")
IMAGE_SIDE = 40
PATIENT = Timeouts(total_seconds=60.0)


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Run an ASGI app under uvicorn in a thread; yield its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # from here on connections wait for the server instead of being refused
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
        thread = threading.Thread(
            target=lambda: asyncio.run(server.serve(sockets=[listener])), name="uvicorn", daemon=True
        )
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)


@dataclass(frozen=True)
class Coordinator:
    """A running coordinator and its admin."""

    url: str
    admin: CoordinatorClient
    backbone_file: Path
    backbone_config: BackboneConfig

    def specification(
        self,
        *,
        training: dict[str, Any] | None = None,
        head: dict[str, Any] | None = None,
        insertion: dict[str, Any] | None = None,
        posterior: dict[str, Any] | None = None,
        **rounds: Any,
    ) -> FederationSpecification:
        """A specification that a laptop trains in a second."""
        config = self.backbone_config
        return FederationSpecification.model_validate(
            {
                "classes": CLASSES,
                "backbone": {
                    "architecture": config.architecture,
                    "weights_digest": config.weights_digest,
                    "image_size_pixels": config.image_size_pixels,
                },
                "insertion": {"kind": "prefix", "num_blocks": 2, "prompt_length": 2, **(insertion or {})},
                "posterior": {"latent_dim": 4, "noise_dim": 3, "hidden_dim": 8, **(posterior or {})},
                "head": head or {},
                "training": {"local_epochs": 2, "batch_size": 8, **(training or {})},
                "rounds": {"num_rounds": 2, "min_sites_to_start": 2, "quorum": 2, **rounds},
            }
        )

    def found(self, name: str = "shapes", **choices: Any) -> Federation:
        """Create, initialise and activate a federation."""
        specification = self.specification(**choices)
        return found(self.admin, name, specification, self.backbone_file, activate=True)

    def invite(self, federation: str = "shapes", organisation: str = "clinic") -> str:
        """Return a fresh enrolment token."""
        return self.admin.federations.create_enrolment_token(federation, organisation).token

    def enrol(self, directory: Path, name: str, federation: str = "shapes", **options: Any) -> Site:
        """Enrol a site."""
        token = self.invite(federation)
        return Site.enrol(
            self.url, token, name=name, directory=directory, backbone=self.backbone_file, **options
        )


@contextmanager
def coordinating(
    folder: Path, backbone_file: Path, config: BackboneConfig, **changes: Any
) -> Iterator[Coordinator]:
    """Run a coordinator with a quick worker; sites are asked to come back at once."""
    quick: dict[str, Any] = {
        "retry_after_seconds": 0.05,
        "worker_interval_seconds": 0.05,
        "heartbeat_seconds": 0.0,
    }
    settings = Settings(admin_token=ADMIN_TOKEN, data_dir=folder, **(quick | changes))
    with serving(create_app(settings)) as url, CoordinatorClient(url, ADMIN_TOKEN, timeouts=PATIENT) as admin:
        yield Coordinator(url, admin, backbone_file, config)


def draw_images(root: Path, per_class: int, seed: int = 0, classes: Sequence[str] = CLASSES) -> Path:
    """Write `per_class` noisy PNG files of each class into class folders, and return the root."""
    random = np.random.default_rng(seed)
    for position, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            Image.fromarray(_pixels(position, random)).save(folder / f"{seed}-{number}.png")
    return root


def _pixels(position: int, random: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Each class has a pattern of its own, in a random colour on a noisy ground."""
    rows, columns = np.mgrid[:IMAGE_SIDE, :IMAGE_SIDE] - IMAGE_SIDE / 2
    masks = (rows**2 + columns**2 < 150, abs(rows) + abs(columns) < 14, rows.astype(int) % 8 < 4)
    ground = random.integers(0, 90, (IMAGE_SIDE, IMAGE_SIDE, 3))
    colour = random.integers(150, 256, 3)
    return np.where(masks[position % len(masks)][..., None], colour, ground).astype(np.uint8)
