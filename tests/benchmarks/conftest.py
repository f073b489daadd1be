"""A small pool of random images, seen by a tiny random ViT."""

import numpy as np
import pytest
from pools import Encoded, Pool, prepare

from pfedbayespt.model.backbone import load_backbone, random_backbone
from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion import build_insertion


@pytest.fixture(scope="session")
def pool() -> Pool:
    """Three classes in two domains; the class is the image's brightness, so it can be learned."""
    rng = np.random.default_rng(0)
    labels, domains, is_test = np.arange(180) % 3, np.arange(180) // 3 % 2, np.arange(180) >= 120
    groups = np.arange(180) // 4
    images = rng.integers(0, 60, (180, 48, 48, 3)) + (labels * 90)[:, None, None, None]
    return Pool("random", images.astype(np.uint8), labels, domains, groups, is_test, ("dark", "light"))


@pytest.fixture(scope="session")
def encoded(pool, tmp_path_factory) -> Encoded:
    """The pool's contexts for prefixes in the last two blocks, in float32."""
    return _encoded(pool, tmp_path_factory.mktemp("backbone"), InsertionConfig("prefix", 2, 2))


@pytest.fixture(scope="session")
def encoded_midway(pool, tmp_path_factory) -> Encoded:
    """The pool's contexts for prompts in the two blocks up to the middle one."""
    return _encoded(pool, tmp_path_factory.mktemp("backbone"), InsertionConfig("midway", 2, 2))


def _encoded(pool, folder, insertion) -> Encoded:
    weights = folder / "tiny.safetensors"
    config = random_backbone(weights)
    backbone = load_backbone(config, weights)
    built = build_insertion(insertion, backbone, 4)
    context = built.encode(prepare(pool.images, config))
    return Encoded(pool, backbone, built, context, built.unprompted(context))
