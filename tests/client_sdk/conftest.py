"""Fixtures of the SDK's tests: everything runs, nothing is pretended."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.client_sdk.harness import Coordinator, coordinating, draw_images, serving

from pfedbayespt.model.backbone import random_backbone
from pfedbayespt.model.config import BackboneConfig


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """A function that serves an ASGI app until the test ends and returns its address."""
    with ExitStack() as stack:
        yield lambda app: stack.enter_context(serving(app))


@pytest.fixture(scope="session")
def backbone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a tiny random ViT."""
    return tmp_path_factory.mktemp("backbone") / "tiny.safetensors"


@pytest.fixture(scope="session")
def backbone_config(backbone_file: Path) -> BackboneConfig:
    """The tiny ViT's configuration."""
    return random_backbone(backbone_file)


@pytest.fixture
def coordinator(
    tmp_path: Path, backbone_file: Path, backbone_config: BackboneConfig
) -> Iterator[Coordinator]:
    """A coordinator without federations."""
    with coordinating(tmp_path / "coordinator", backbone_file, backbone_config) as running:
        yield running


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `train` (8 per class) and `held-out` (4 per class)."""
    root = tmp_path_factory.mktemp("images")
    draw_images(root / "train", 8, seed=1)
    draw_images(root / "held-out", 4, seed=2)
    return root
