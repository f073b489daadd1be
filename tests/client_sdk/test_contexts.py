"""The cache of encoded images changes how often images are encoded, and nothing else."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pfedbayespt.client.contexts import ImageContexts
from pfedbayespt.client.errors import DatasetError
from pfedbayespt.model.backbone import load_backbone
from pfedbayespt.model.config import BackboneConfig, InsertionConfig
from pfedbayespt.model.insertion import Context, Insertion, build_insertion

NUM_IMAGES = 40  # more than one chunk


class Drawn:
    """Random images, and how often each was asked for."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (NUM_IMAGES, 3, 48, 48), dtype=torch.uint8, generator=random)
        self.reads = [0] * NUM_IMAGES

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        self.reads[index] += 1
        return self.pixels[index], 0


@pytest.fixture(scope="module")
def insertion(backbone_file: Path, backbone_config: BackboneConfig) -> Insertion:
    return build_insertion(InsertionConfig(num_blocks=2), load_backbone(backbone_config, backbone_file))


def contexts(insertion: Insertion, config: BackboneConfig, dataset: Drawn, **options: Any) -> ImageContexts:
    cpu = torch.device("cpu")
    return ImageContexts(dataset, [0] * len(dataset), insertion, config, device=cpu, **options)


def assert_equal(one: Context, other: Context) -> None:
    for mine, theirs in zip(one.tensors(), other.tensors(), strict=True):
        # Batches of another size may round differently.
        assert torch.allclose(mine, theirs, atol=1e-5)


ORDERS = [[0], [39, 3, 17, 38, 0], list(range(NUM_IMAGES)), list(range(NUM_IMAGES))[::-1]]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95, 1.0, 10.0])
def test_batches_do_not_depend_on_how_much_is_cached(
    insertion: Insertion, backbone_config: BackboneConfig, share: float
) -> None:
    everything = contexts(insertion, backbone_config, Drawn())
    all_bytes = everything.batch(torch.arange(NUM_IMAGES)).num_bytes
    bounded = contexts(insertion, backbone_config, Drawn(), max_cache_bytes=int(all_bytes * share))
    for order in ORDERS:
        indices = torch.tensor(order)
        assert_equal(bounded.batch(indices), everything.batch(indices))


def test_what_fits_is_encoded_once_and_the_rest_each_time(
    insertion: Insertion, backbone_config: BackboneConfig
) -> None:
    whole = contexts(insertion, backbone_config, Drawn()).batch(torch.arange(NUM_IMAGES))
    bytes_per_image = whole.num_bytes // NUM_IMAGES
    dataset = Drawn()
    bounded = contexts(insertion, backbone_config, dataset, max_cache_bytes=35 * bytes_per_image)
    for _ in range(3):
        bounded.batch(torch.arange(NUM_IMAGES))
    assert dataset.reads[:35] == [1] * 35
    assert set(dataset.reads[35:]) == {4}  # once to fill the cache's last chunk, then for each batch


def test_a_cache_of_no_bytes_keeps_nothing(insertion: Insertion, backbone_config: BackboneConfig) -> None:
    dataset = Drawn()
    uncached = contexts(insertion, backbone_config, dataset, max_cache_bytes=0)
    for _ in range(2):
        uncached.batch(torch.tensor([3]))
    assert dataset.reads[3] == 2
    assert sum(dataset.reads) == 2


def test_progress_is_told_while_images_are_encoded(
    insertion: Insertion, backbone_config: BackboneConfig
) -> None:
    told: list[tuple[int, int]] = []
    source = contexts(
        insertion, backbone_config, Drawn(), on_encoded=lambda done, total: told.append((done, total))
    )
    source.batch(torch.arange(1))
    assert told == [(32, 40), (40, 40)]


def test_an_image_that_vanishes_while_the_site_runs_is_named(
    insertion: Insertion, backbone_config: BackboneConfig
) -> None:
    class Vanishing(Drawn):
        def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
            if index == 5:
                raise FileNotFoundError("gone.png")
            return super().__getitem__(index)

    with pytest.raises(DatasetError, match=r"image 5 can no longer be read: gone\.png"):
        contexts(insertion, backbone_config, Vanishing()).batch(torch.arange(8))
