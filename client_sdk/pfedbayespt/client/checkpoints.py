"""How far training has come in the live round, on the disk at the end of every epoch.

Rules:
1. A checkpoint belongs to one round and one base: its file's name is a digest of both, so another round's is never
   gone on from.
2. There is at most one, replaced whole; it is removed when the round's update is in the outbox.
3. A checkpoint only saves time. If the disk has no room for it, training goes on without.
"""

import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from pfedbayespt.client.errors import StateError
from pfedbayespt.client.state import write_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """The place of one round's checkpoint."""

    file: Path

    def read(self) -> bytes | None:
        """Return what was kept last; None: nothing was."""
        try:
            return self.file.read_bytes()
        except OSError:
            return None

    def write(self, content: bytes) -> None:
        """Keep `content` in place of what was kept before."""
        try:
            write_whole(self.file, content)
        except StateError as error:
            logger.warning("no checkpoint is kept: %s", error)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint of a site, in its state directory."""

    state_directory: Path

    def of_round(self, round_id: str, base_digest: str) -> "Checkpoint":
        """Return the round's place; a checkpoint of any other round is removed."""
        name = hashlib.sha256(f"{round_id}\n{base_digest}".encode()).hexdigest()[:32]
        checkpoint = Checkpoint(self._folder / f"{name}.safetensors")
        for file in self._folder.glob("*"):
            if file != checkpoint.file:
                file.unlink(missing_ok=True)
        return checkpoint

    def discard(self) -> None:
        """Remove what is kept."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _folder(self) -> Path:
        return self.state_directory / "training"
