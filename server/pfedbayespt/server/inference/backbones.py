"""The backbones on this machine."""

import hashlib
from pathlib import Path

import torch

from pfedbayespt.model.backbone import Backbone, load_backbone
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.model.precision import in_precision
from pfedbayespt.protocol import Digest
from pfedbayespt.protocol.predictions import Precision
from pfedbayespt.server.errors import InferenceUnavailable


class BackboneFolder:
    """The backbones in a folder, found by digest and loaded once, in one precision.

    Args:
        folder: where the files are.
        device: where the backbones go.
        precision: what they compute in.
        compiled: compile their feed-forward networks, which takes a minute at the first answer.
    """

    def __init__(
        self, folder: Path, device: torch.device, *, precision: Precision = "float32", compiled: bool = False
    ) -> None:
        self.folder = folder
        self.precision = precision
        self._device = device
        self._compiled = compiled
        self._digests: dict[tuple[Path, int, int], Digest] = {}  # by path, size and time of change
        self._loaded: dict[tuple[str, Digest, int], Backbone] = {}

    def load(self, config: BackboneConfig) -> Backbone:
        """Return the backbone; not thread-safe.

        Raises:
            InferenceUnavailable: there is no file of that digest.
            BackboneError: there is one, but it does not fit the architecture.
        """
        key = (config.architecture, config.weights_digest, config.image_size_pixels)
        if key not in self._loaded:
            self._loaded[key] = self._load(config)
        return self._loaded[key]

    def _load(self, config: BackboneConfig) -> Backbone:
        backbone = load_backbone(config, self._find(config.weights_digest), self._device)
        backbone = in_precision(backbone, self.precision)
        if self._compiled:
            for name, module in backbone.blocks.named_modules():
                if name.endswith(".mlp"):
                    module.compile()
        return backbone

    def _find(self, digest: Digest) -> Path:
        files = (path for path in sorted(self.folder.glob("*")) if path.is_file())
        found = next((path for path in files if self._digest_of(path) == digest), None)
        if found is None:
            raise InferenceUnavailable(
                f"the backbone {digest} is not here: no file in {self.folder} has this SHA-256; put it there"
            )
        return found

    def _digest_of(self, path: Path) -> Digest:
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            with path.open("rb") as file:
                self._digests[key] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        return self._digests[key]
