"""The cache of encoded images: what it finds, for whom, and how much it keeps."""

from dataclasses import replace

import pytest
import torch

from pfedbayespt.model.config import BackboneConfig, InsertionConfig
from pfedbayespt.model.insertion import Context
from pfedbayespt.protocol import digest_of_bytes
from pfedbayespt.server.inference.features import FeatureCache, FeatureKey

KEY = FeatureKey(
    tenant="clinic",
    image=digest_of_bytes(b"image"),
    backbone=BackboneConfig("vit_tiny", digest_of_bytes(b"weights"), 28),
    insertion=InsertionConfig("prefix", 2),
    mid_block=1,
    grid_size=3,
    precision="float32",
)
OTHERS = [
    replace(KEY, tenant="bank"),
    replace(KEY, image=digest_of_bytes(b"other image")),
    replace(KEY, backbone=replace(KEY.backbone, weights_digest=digest_of_bytes(b"other weights"))),
    replace(KEY, backbone=replace(KEY.backbone, image_size_pixels=56)),
    replace(KEY, insertion=InsertionConfig("prefix", 1)),
    replace(KEY, mid_block=0),
    replace(KEY, grid_size=1),
    replace(KEY, precision="int8"),
]


def context(num_bytes: int = 400) -> Context:
    return Context(torch.zeros(1, num_bytes // 4))


def image(number: int) -> FeatureKey:
    return replace(KEY, image=digest_of_bytes(str(number).encode()))


def test_an_entry_is_found_again() -> None:
    cache, kept = FeatureCache(1000), context()
    cache.put(KEY, kept)
    assert cache.get(KEY) is kept
    assert cache.num_bytes == 400


@pytest.mark.parametrize("other", OTHERS)
def test_an_entry_is_found_by_all_that_it_depends_on(other: FeatureKey) -> None:
    cache = FeatureCache(1000)
    cache.put(KEY, context())
    assert cache.get(other) is None


def test_the_least_recently_used_goes_first() -> None:
    cache = FeatureCache(1000)
    cache.put(image(1), context())
    cache.put(image(2), context())
    cache.get(image(1))
    cache.put(image(3), context())
    assert [cache.get(image(number)) is not None for number in (1, 2, 3)] == [True, False, True]
    assert cache.num_bytes == 800


def test_what_alone_is_too_large_is_not_kept_and_pushes_nothing_out() -> None:
    cache = FeatureCache(1000)
    cache.put(image(1), context())
    cache.put(image(2), context(1004))
    assert (cache.get(image(2)), cache.num_bytes) == (None, 400)


def test_an_entry_put_twice_counts_once() -> None:
    cache = FeatureCache(1000)
    cache.put(KEY, context())
    cache.put(KEY, context(800))
    assert cache.num_bytes == 800


def test_a_tenants_images_are_forgotten_and_nobody_elses() -> None:
    cache = FeatureCache(2000)
    cache.put(KEY, context())
    cache.put(image(1), context())
    cache.put(replace(KEY, tenant="bank"), context())
    assert cache.purge("clinic") == 800
    assert cache.get(KEY) is None
    assert cache.get(replace(KEY, tenant="bank")) is not None
    assert cache.purge(None) == 400
    assert cache.num_bytes == 0


def test_without_room_nothing_is_kept() -> None:
    cache = FeatureCache(0)
    cache.put(KEY, context())
    assert cache.get(KEY) is None
