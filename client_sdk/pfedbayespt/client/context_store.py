"""Encoded images on the site's disk, so that they outlive rounds and restarts and serve every membership.

Rules:
1. A file holds the contexts of one chunk of images. Its name is the SHA-256 of their prepared pixels, its folder's
   name says what encoded them: another backbone, insertion or image size never meets the wrong contexts, and a
   chunk is encoded as one whole, so that its bits do not depend on what the disk held before.
2. Contexts are image data: folders are 0700, files 0600, none is ever sent, and `purge` removes them.
3. At most `max_bytes` are kept, and no more than the disk has room for. What does not fit is not kept; nothing is
   thrown out for it.
4. What cannot be read is encoded again.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pfedbayespt.client.errors import StateError
from pfedbayespt.client.state import write_whole
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.model.insertion import Context, Insertion

logger = logging.getLogger(__name__)
DEFAULT_STORE_BYTES = 20 * 2**30


class ContextStore:
    """Contexts by the pixels they were encoded from.

    Args:
        directory: where they are kept; several sites of one owner may share it.
        insertion: what encodes.
        config: how its images are prepared.
        max_bytes: how much of the disk they may take.
    """

    def __init__(
        self,
        directory: Path,
        insertion: Insertion,
        config: BackboneConfig,
        max_bytes: int = DEFAULT_STORE_BYTES,
    ) -> None:
        self._kind = insertion.context_type
        self._folder = directory / _fingerprint(insertion, config)
        self._max_bytes = max_bytes
        self._num_bytes = sum(file.stat().st_size for file in directory.rglob("*.safetensors"))

    def read(self, pixels_digest: str, rows: Sequence[int] | None = None) -> Context | None:
        """Return the contexts of a chunk, or of some of its rows; None if they are not kept."""
        try:
            with safe_open(self._file(pixels_digest), "pt") as file:
                named = {name: _rows(file, name, rows) for name in file.keys()}  # noqa: SIM118 - no mapping
            return self._kind.from_named_tensors(named)
        except (OSError, SafetensorError, ValueError):  # rule 4
            return None

    def keep(self, pixels_digest: str, context: Context) -> bool:
        """Keep the contexts of a chunk; False if there is no room for them."""
        if self._num_bytes + context.num_bytes > self._max_bytes:
            return False
        content = save(context.named_tensors())
        try:
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._file(pixels_digest), content)
        except (OSError, StateError) as error:
            logger.warning("encoded images are not kept: %s", error)
            return False
        self._num_bytes += len(content)
        return True

    def _file(self, pixels_digest: str) -> Path:
        return self._folder / f"{pixels_digest}.safetensors"


def digest_of_pixels(pixels: Tensor) -> str:
    """Return the SHA-256 of prepared images (float32 [B, 3, H, W])."""
    return hashlib.sha256(pixels.cpu().numpy().tobytes()).hexdigest()


def purge(directory: Path) -> None:
    """Remove every context that is kept in `directory`."""
    shutil.rmtree(directory, ignore_errors=True)


def _rows(file: safe_open, name: str, rows: Sequence[int] | None) -> Tensor:
    if rows is None:
        return cast("Tensor", file.get_tensor(name))  # type: ignore[no-untyped-call]
    part = file.get_slice(name)  # type: ignore[no-untyped-call]
    return torch.cat([part[row : row + 1] for row in rows])


def _fingerprint(insertion: Insertion, config: BackboneConfig) -> str:
    parts = {
        "backbone": asdict(config),
        "insertion": asdict(insertion.config),
        "mid_block": insertion.mid_block,
        "grid_size": insertion.grid_size,
        "dtype": str(insertion.backbone.vit.cls_token.dtype),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
