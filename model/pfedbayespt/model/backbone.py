"""The frozen trunk: a timm vision transformer that is never changed and never receives a gradient.

Rules:
1. Nothing is read from a weights file before the file's SHA-256 is the agreed one.
2. A position grid of another size is resampled bicubically without antialiasing, as DINOv2 was meant to be used.
3. Only plain, pre-norm transformers with a class token are taken; any other is refused with the reason, because
   the insertions compute inside the blocks (`insertion/_attention.py`).
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from pfedbayespt.model.config import BackboneConfig


class BackboneError(ValueError):
    """The architecture or its weights cannot be used; the message says why and what can."""


class BackboneDigestError(BackboneError):
    """The weights file is not the one that was agreed on."""

    def __init__(self, weights_file: Path, expected: str, actual: str) -> None:
        super().__init__(f"{weights_file} has digest {actual}, but {expected} was agreed on")
        self.expected = expected
        self.actual = actual


class Backbone(nn.Module):
    """A timm vision transformer, frozen and in evaluation mode for good.

    Attributes:
        embed_dim: d, the width of a token.
        depth: number of blocks.
        num_heads: attention heads per block.
        num_prefix_tokens: class token and registers, which precede the patches.
        image_size: side of the square input image, in pixels.
        patch_size: height and width of a patch, in pixels.
        patch_grid: rows and columns of patches in an image.

    Raises:
        BackboneError: the transformer is not a plain pre-norm one with a class token.
    """

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        _check_supported(vit)
        self.vit = vit.eval().requires_grad_(requires_grad=False)
        self.blocks: nn.Sequential = vit.blocks
        # Architectures that average patches call their last norm fc_norm; it is the same norm of the same width.
        self.final_norm: nn.Module = vit.fc_norm if isinstance(vit.norm, nn.Identity) else vit.norm
        self.embed_dim: int = vit.embed_dim
        self.depth = len(vit.blocks)
        self.num_heads: int = vit.blocks[0].attn.num_heads
        self.num_prefix_tokens: int = vit.num_prefix_tokens
        self.image_size: int = vit.patch_embed.img_size[0]
        self.patch_size: tuple[int, int] = vit.patch_embed.patch_size
        self.patch_grid: tuple[int, int] = vit.patch_embed.grid_size

    @property
    def dtype(self) -> torch.dtype:
        """The type of the token states."""
        return self.vit.cls_token.dtype  # type: ignore[no-any-return]

    def embed(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N d"]:
        """Return the token states before the first block: class token, registers, patches; in the trunk's type."""
        images = images.to(self.dtype)
        tokens: Tensor = self.vit._pos_embed(self.vit.patch_embed(images))  # noqa: SLF001 - timm has no public way
        return self.vit.norm_pre(tokens)  # type: ignore[no-any-return]

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N d"]:
        """Return the token states after the last block and the final norm."""
        return self.final_norm(self.blocks(self.embed(images)))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002, FBT001, FBT002 - torch's signature
        """Stay in evaluation mode, whatever the surrounding model does."""
        return super().train(mode=False)


def load_backbone(config: BackboneConfig, weights_file: Path, device: torch.device | None = None) -> Backbone:
    """Return the backbone of `config`, in float32, on `device` (the CPU if None).

    Raises:
        BackboneDigestError: the file's SHA-256 is not `config.weights_digest`.
        BackboneError: the architecture is unknown or unsupported, or the weights do not fit it.
    """
    content = weights_file.read_bytes()
    actual = weights_digest(content)
    if actual != config.weights_digest:
        raise BackboneDigestError(weights_file, config.weights_digest, actual)
    try:
        state = safetensors.torch.load(content)
    except SafetensorError as error:
        raise BackboneError(f"{weights_file} is not a safetensors file: {error}") from error
    vit = _create(config)
    _load_state(vit, {name: tensor.float() for name, tensor in state.items()}, config)
    return Backbone(vit).to(device)


def weights_digest(content: bytes) -> str:
    """Return `sha256:<hex>` of the content of a weights file."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def fetch_hub_backbone(architecture: str, directory: Path) -> Path:
    """Download timm's pretrained weights of `architecture` from its hub into `directory`; return the file.

    Only for machines that can reach the hub. The digest to agree on is `weights_digest(file.read_bytes())`.
    """
    vit = timm.create_model(architecture, pretrained=True, num_classes=0)
    _check_supported(vit)
    directory.mkdir(parents=True, exist_ok=True)
    weights_file = directory / f"{architecture}.safetensors"
    safetensors.torch.save_file(vit.state_dict(), weights_file)
    return weights_file


def random_backbone(
    weights_file: Path, *, architecture: str = "test_vit", image_size_pixels: int = 48, seed: int = 0
) -> BackboneConfig:
    """Write random weights for `architecture` to `weights_file` and return their configuration.

    For tests and trials. The weights are larger than an initialisation's, so that attention is far from uniform
    and layer scales are far from zero: a mistake in the computation shows.
    """
    config = BackboneConfig(architecture, weights_digest="", image_size_pixels=image_size_pixels)
    generator = torch.Generator().manual_seed(seed)
    state = {name: _draw(name, like, generator) for name, like in _create(config).state_dict().items()}
    content = safetensors.torch.save(state)
    weights_file.write_bytes(content)
    return BackboneConfig(architecture, weights_digest(content), image_size_pixels)


def choose_device() -> torch.device:
    """Return the first CUDA device if there is one, else the CPU.

    Apple's MPS is passed over: it has no float64, which the read-out's statistics need.
    """
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _create(config: BackboneConfig) -> VisionTransformer:
    """Build the architecture without memory for weights, and without touching the global generator."""
    name = config.architecture
    if not timm.is_model(name):
        raise BackboneError(f"timm knows no architecture {name!r}; see timm.list_models('vit_*')")
    size: dict[str, Any] = {"img_size": config.image_size_pixels, "dynamic_img_size": False}
    try:
        with torch.device("meta"):
            vit = timm.create_model(name, pretrained=False, num_classes=0, **size)
    except TypeError as error:
        raise BackboneError(f"{name} is not a plain vision transformer: {error}") from error
    _check_supported(vit)
    patch = vit.patch_embed.patch_size[0]
    if config.image_size_pixels % patch:
        raise BackboneError(
            f"image_size_pixels is {config.image_size_pixels}; {name} takes multiples of {patch}"
        )
    return vit


def _check_supported(vit: nn.Module) -> None:
    """Refuse what the insertions could not compute faithfully."""
    name = type(vit).__name__
    if not isinstance(vit, VisionTransformer):
        raise BackboneError(f"{name} is not a timm VisionTransformer")
    if not vit.has_class_token:
        raise BackboneError("the architecture has no class token, which prompts act on")
    if type(vit.patch_embed) is not PatchEmbed:
        raise BackboneError(
            f"an embedding by {type(vit.patch_embed).__name__} is unsupported; allowed: PatchEmbed"
        )
    for block in vit.blocks:
        if type(block) is not Block:
            raise BackboneError(f"blocks of type {type(block).__name__} are unsupported; allowed: Block")
        if type(block.attn) is not Attention or getattr(block.attn, "gate", None) is not None:
            raise BackboneError(
                f"attention {type(block.attn).__name__} is unsupported; allowed: plain Attention"
            )


def _load_state(vit: VisionTransformer, state: dict[str, Tensor], config: BackboneConfig) -> None:
    if vit.pos_embed is not None and "pos_embed" in state:
        num_fixed = 0 if vit.no_embed_class else vit.num_prefix_tokens
        state["pos_embed"] = _resample_positions(state["pos_embed"], vit.patch_embed.grid_size, num_fixed)
    try:
        vit.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise BackboneError(f"the weights do not fit {config.architecture}: {error}") from error
    left = [name for name, buffer in vit.named_buffers() if buffer.is_meta]
    if left:
        raise BackboneError(f"{config.architecture} has buffers that no weights file holds: {left}")


def _resample_positions(
    positions: Float[Tensor, "1 n d"], grid: tuple[int, int], num_fixed: int
) -> Float[Tensor, "1 m d"]:
    """Resample a square grid of positions; the first `num_fixed` (class token, registers) are left alone."""
    fixed, patches = positions[:, :num_fixed], positions[:, num_fixed:]
    side = round(patches.shape[1] ** 0.5)
    if side * side != patches.shape[1]:
        raise BackboneError(f"the weights hold {patches.shape[1]} patch positions, which is no square grid")
    if (side, side) == tuple(grid):
        return positions
    image = patches.reshape(1, side, side, -1).movedim(3, 1)
    resized: Tensor = nn.functional.interpolate(image, size=grid, mode="bicubic", antialias=False)
    return torch.cat([fixed, resized.flatten(2).transpose(1, 2)], dim=1)


def _draw(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator)
    if name.endswith(("pos_embed", "_token")):
        return noise * 0.5
    if like.dim() > 1:
        return noise / math.sqrt(like.numel() / like.shape[0])
    return noise * 0.1 if name.endswith("bias") else 1.0 + noise * 0.1
