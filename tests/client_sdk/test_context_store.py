"""Encoded images on the disk: same bits, bounded, private, and gone when they are to be gone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pfedbayespt.client.context_store import ContextStore, purge
from pfedbayespt.client.contexts import ImageContexts
from pfedbayespt.model.backbone import load_backbone
from pfedbayespt.model.config import BackboneConfig, InsertionConfig
from pfedbayespt.model.insertion import Context, Insertion, build_insertion

NUM_IMAGES = 70  # three chunks
ALL = torch.arange(NUM_IMAGES)


class Drawn:
    """Random images."""

    def __init__(self) -> None:
        random = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (NUM_IMAGES, 3, 48, 48), dtype=torch.uint8, generator=random)

    def __len__(self) -> int:
        return NUM_IMAGES

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        return self.pixels[index], 0


class Counting:
    """An insertion that says how many images it has encoded."""

    def __init__(self, insertion: Insertion) -> None:
        self.num_encoded = 0
        self._insertion = insertion

    def __getattr__(self, name: str) -> Any:
        return getattr(self._insertion, name)

    def encode(self, images: Tensor) -> Context:
        self.num_encoded += len(images)
        return self._insertion.encode(images)


@pytest.fixture(params=["prefix", "twoway"])
def insertion(
    request: pytest.FixtureRequest, backbone_file: Path, backbone_config: BackboneConfig
) -> Counting:
    config = InsertionConfig(kind=request.param, num_blocks=2)
    return Counting(build_insertion(config, load_backbone(backbone_config, backbone_file)))


def source(
    insertion: Any,
    config: BackboneConfig,
    directory: Path | None,
    *,
    max_store_bytes: int = 2**40,
    **options: Any,
) -> ImageContexts:
    store = ContextStore(directory, insertion, config, max_store_bytes) if directory else None
    cpu = torch.device("cpu")
    return ImageContexts(Drawn(), [0] * NUM_IMAGES, insertion, config, device=cpu, store=store, **options)


def assert_same_bits(one: Context, other: Context) -> None:
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one.tensors(), other.tensors(), strict=True))


def files_in(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_another_process_finds_what_was_encoded_and_gets_the_same_bits(
    insertion: Counting, backbone_config: BackboneConfig, tmp_path: Path
) -> None:
    first = source(insertion, backbone_config, tmp_path).batch(ALL)
    assert insertion.num_encoded == NUM_IMAGES
    again = source(insertion, backbone_config, tmp_path).batch(ALL)
    assert insertion.num_encoded == NUM_IMAGES
    assert_same_bits(again, first)
    assert_same_bits(source(insertion, backbone_config, None).batch(ALL), first)


@pytest.mark.parametrize("share_in_memory", [0.0, 0.3])
def test_what_memory_cannot_hold_is_read_from_the_disk(
    insertion: Counting, backbone_config: BackboneConfig, tmp_path: Path, share_in_memory: float
) -> None:
    whole = source(insertion, backbone_config, None).batch(ALL)
    insertion.num_encoded = 0
    bounded = source(
        insertion, backbone_config, tmp_path, max_cache_bytes=int(whole.num_bytes * share_in_memory)
    )
    for order in ([69, 0, 33, 31, 32], list(range(NUM_IMAGES))[::-1]):
        assert_same_bits(bounded.batch(torch.tensor(order)), whole.select(torch.tensor(order)))
    assert insertion.num_encoded == NUM_IMAGES


def test_the_disk_is_used_up_to_its_bound(
    insertion: Counting, backbone_config: BackboneConfig, tmp_path: Path
) -> None:
    whole = source(insertion, backbone_config, None).batch(ALL)
    bound = whole.num_bytes * 40 // NUM_IMAGES  # one chunk of 32, and no second
    bounded = source(insertion, backbone_config, tmp_path, max_store_bytes=bound, max_cache_bytes=0)
    got = bounded.batch(ALL)
    for mine, theirs in zip(got.tensors(), whole.tensors(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)  # batches of another size may round differently
    assert len(files_in(tmp_path)) == 1
    assert files_in(tmp_path)[0].stat().st_size <= bound


def test_a_torn_file_is_encoded_again(
    insertion: Counting, backbone_config: BackboneConfig, tmp_path: Path
) -> None:
    whole = source(insertion, backbone_config, tmp_path).batch(ALL)
    torn = files_in(tmp_path)[0]
    torn.write_bytes(torn.read_bytes()[:1000])
    assert_same_bits(source(insertion, backbone_config, tmp_path).batch(ALL), whole)
    assert torn.stat().st_size > 1000


def test_a_file_that_vanishes_while_the_site_runs_is_encoded_again(
    insertion: Counting, backbone_config: BackboneConfig, tmp_path: Path
) -> None:
    running = source(insertion, backbone_config, tmp_path, max_cache_bytes=0)
    first = running.batch(ALL)
    purge(tmp_path)
    for mine, theirs in zip(running.batch(ALL).tensors(), first.tensors(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)


def test_contexts_of_another_image_size_are_others(
    insertion: Counting, backbone_file: Path, backbone_config: BackboneConfig, tmp_path: Path
) -> None:
    source(insertion, backbone_config, tmp_path).batch(ALL)
    other = BackboneConfig(**{**vars(backbone_config), "mean": (0.5, 0.5, 0.5)})
    source(insertion, other, tmp_path).batch(ALL)
    assert insertion.num_encoded == 2 * NUM_IMAGES
    assert len(list(tmp_path.iterdir())) == 2


def test_only_the_owner_may_read_them(
    insertion: Counting, backbone_config: BackboneConfig, tmp_path: Path
) -> None:
    source(insertion, backbone_config, tmp_path / "contexts").batch(ALL)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "contexts").rglob("*")}
    assert modes == {0o700, 0o600}
    assert (tmp_path / "contexts").stat().st_mode & 0o777 == 0o700
