"""Real parts for tests of inference: a tiny ViT on disk, versions of a federation's parameters, real images."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pfedbayespt.model.backbone import load_backbone, random_backbone
from pfedbayespt.model.config import BackboneConfig, ModelConfig
from pfedbayespt.model.parameters import initial_parameters
from pfedbayespt.protocol import (
    BackboneSpecification,
    FederationSpecification,
    InsertionSpecification,
    ParametersManifest,
    digest_of_message,
    tensors,
)
from pfedbayespt.server.blobs import BlobStore
from pfedbayespt.server.predictions.predictor import ServableVersion

CLASSES = ("bird", "fruit", "tool")
Arrays = dict[str, tensors.FloatArray]


def specification_on(config: BackboneConfig, **changes: Any) -> FederationSpecification:
    return FederationSpecification(
        classes=CLASSES,
        backbone=BackboneSpecification(
            architecture=config.architecture,
            weights_digest=config.weights_digest,
            image_size_pixels=config.image_size_pixels,
        ),
        insertion=InsertionSpecification(num_blocks=2),
        **changes,
    )


def tiny_backbone(folder: Path, name: str = "weights of a tiny ViT", seed: int = 0) -> BackboneConfig:
    folder.mkdir(parents=True, exist_ok=True)
    return random_backbone(folder / name, seed=seed)


def parameters_of(specification: FederationSpecification, weights_file: Path, seed: int) -> Arrays:
    """Parameters as training might leave them: every tensor moved, variances positive."""
    agreed = specification.model_dump(mode="json")
    backbone = load_backbone(BackboneConfig.from_specification(agreed), weights_file)
    arrays = initial_parameters(ModelConfig.from_specification(agreed), backbone, seed)
    rng = np.random.default_rng(seed)
    for name, array in arrays.items():
        if not name.startswith("statistics."):
            array += rng.normal(scale=0.3, size=array.shape).astype(array.dtype)
    return arrays


def file_of(
    arrays: Arrays, specification: FederationSpecification, number: int, federation: str = "alpha"
) -> bytes:
    manifest = ParametersManifest(
        federation=federation,
        specification_digest=digest_of_message(specification),
        version_number=number,
    )
    return tensors.encode(arrays, manifest)


def keep(blobs: BlobStore, content: bytes) -> str:
    with blobs.create() as blob:
        blob.write(content)
        blobs.put(blob)
        return blob.digest


def servable(
    specification: FederationSpecification, number: int, digest: str, federation: str = "alpha"
) -> ServableVersion:
    return ServableVersion(federation, specification, digest_of_message(specification), number, digest)


def picture(seed: int = 0, size: tuple[int, int] = (60, 50)) -> Image.Image:
    """A picture with some structure."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()
