"""The images of a benchmark, and their frozen contexts, encoded once and kept on disk in 16 bits.

Rules:
    1. A pool is what its builder wrote (`benchmarks/data`): images, labels, domains, and which images are for test.
    2. Contexts are the product's own (`Insertion.encode`); the file's name says all that they depend on.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pfedbayespt.model.backbone import Backbone, load_backbone, weights_digest
from pfedbayespt.model.config import BackboneConfig, InsertionConfig
from pfedbayespt.model.insertion import Context, Insertion, build_insertion

ARCHITECTURE = "vit_small_patch14_dinov2"
LETTER_DOMAINS = ("serif", "sans", "mono", "script", "blackletter", "display")
_BATCH = 64


@dataclass(frozen=True)
class Pool:
    """Labelled images of several domains; all arrays share their first axis.

    `groups` says what is never on both sides of a split: the font family of a letter, the ideogram of a drawing.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    domains: np.ndarray
    groups: np.ndarray
    is_test: np.ndarray
    domain_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Return the number of classes, all of which occur."""
        return int(self.labels.max()) + 1


@dataclass(frozen=True)
class Encoded:
    """A pool seen by a frozen trunk: contexts, and the unprompted read-out of every image."""

    pool: Pool
    backbone: Backbone
    insertion: Insertion
    context: Context
    readout: torch.Tensor


def load_pool(folder: Path) -> Pool:
    """Read `letters-*.npz`, or the folder layout of the ideograms.

    Raises:
        FileNotFoundError: neither is there.
    """
    if folder.suffix == ".npz":
        data = np.load(folder)
        columns = (data[name] for name in ("images", "labels", "domains", "families", "is_test"))
        return Pool(folder.stem, *columns, LETTER_DOMAINS)
    files = sorted(folder.glob("t*/*/*/*.webp"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no drawings; build them with benchmarks/data/ideograms.py")
    parts = [file.relative_to(folder).parts for file in files]
    domain_names, classes = (tuple(sorted({part[level] for part in parts})) for level in (1, 2))
    return Pool(
        folder.name,
        np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]),
        np.array([classes.index(part[2]) for part in parts]),
        np.array([domain_names.index(part[1]) for part in parts]),
        np.array([file.stem for file in files]),
        np.array([part[0] == "test" for part in parts]),
        domain_names,
    )


def thin(pool: Pool, train: int, test: int) -> Pool:
    """Keep the first `train` and `test` images of every domain and class, so that encoding takes minutes."""
    counts: dict[tuple[int, int, bool], int] = {}
    keep = np.zeros(len(pool.labels), bool)
    for index, cell in enumerate(zip(pool.domains, pool.labels, pool.is_test, strict=True)):
        counts[cell] = counts.get(cell, 0) + 1
        keep[index] = counts[cell] <= (test if cell[2] else train)
    columns = (column[keep] for column in (pool.images, pool.labels, pool.domains, pool.groups, pool.is_test))
    return Pool(f"{pool.name}-{train}-{test}", *columns, pool.domain_names)


def encode_pool(
    pool: Pool, weights: Path, size: int, insertion: InsertionConfig, mid_block: int | None, cache: Path
) -> Encoded:
    """Return the contexts of every image of the pool, from the cache where they are there."""
    digest = weights_digest(weights.read_bytes())
    config = BackboneConfig(ARCHITECTURE, digest, size)
    backbone = load_backbone(config, weights)
    built = build_insertion(insertion, backbone, mid_block)
    kind = (
        "prefix" if insertion.kind == "prefix" else "boundary"
    )  # prompt length and depth leave no trace in it
    pixels = hashlib.sha256(pool.images.tobytes()).hexdigest()
    key = f"{pixels}-{config}-{kind}-{insertion.num_blocks}-{built.mid_block}-{built.grid_size}"
    file = cache / f"{pool.name}-{kind}{insertion.num_blocks}-{_short(key)}.safetensors"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        save_file(_encode(pool, config, built), file)
    tensors = load_file(file)
    readout = tensors.pop("readout").float()
    template = built.encode(torch.zeros(1, 3, size, size))
    context = _fill(template, [tensor.float() for tensor in tensors.values()])
    return Encoded(pool, backbone, built, context, readout)


def _encode(pool: Pool, config: BackboneConfig, insertion: Insertion) -> dict[str, torch.Tensor]:
    columns: list[list[torch.Tensor]] = []
    for start in range(0, len(pool.images), _BATCH):
        context = insertion.encode(prepare(pool.images[start : start + _BATCH], config))
        columns.append([insertion.unprompted(context), *context.tensors()])
    joined = [torch.cat(parts).half() for parts in zip(*columns, strict=True)]
    return {"readout": joined[0]} | {f"{index:03d}": tensor for index, tensor in enumerate(joined[1:])}


def prepare(images: np.ndarray, config: BackboneConfig) -> torch.Tensor:
    """Resize (bicubic, antialiased) and normalise uint8 images."""
    side = config.image_size_pixels
    resized = [
        np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in images
    ]
    scaled = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return (scaled - mean) / std


def _fill(template: Context, tensors: Sequence[torch.Tensor]) -> Context:
    rest = iter(tensors)
    fields: dict[str, Any] = {}
    for name, value in vars(template).items():
        fields[name] = tuple(next(rest) for _ in value) if isinstance(value, tuple) else next(rest)
    return replace(template, **fields)


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:12]
