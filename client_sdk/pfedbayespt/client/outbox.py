"""A finished update, kept until the coordinator has acknowledged it.

Rules:
1. An update is on the disk before it is sent: a site that is killed in between sends the very same bytes when it
   comes back, and the coordinator recognises them by their digest.
2. The outbox is complete or absent: it is filled beside and renamed into place.
3. Personal parameters trained in a round wait in the outbox too, and take effect with the acknowledgement.
"""

import io
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pfedbayespt.client.errors import StateError
from pfedbayespt.client.personal import PersonalStore
from pfedbayespt.client.state import cannot_be_written, flush_folder, write_through
from pfedbayespt.protocol import TensorFileError, UpdateManifest, tensors

_UPDATE, _PERSONAL = "update.safetensors", "personal.safetensors"


@dataclass(frozen=True)
class PendingUpdate:
    """An update that waits for its acknowledgement."""

    manifest: UpdateManifest
    content: bytes


class Outbox:
    """Holds at most one finished update of a site."""

    def __init__(self, state_directory: Path) -> None:
        self._folder = state_directory / "outbox"
        self._personal = PersonalStore(state_directory / "personal")

    def put(self, update: bytes, personal: bytes | None) -> None:
        """Keep an update, and the personal parameters that were trained with it (None: there are none).

        Raises:
            StateError: the disk is full or broken; nothing of it is kept.
        """
        beside = self._folder.with_name(".outbox.new")
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir(mode=0o700)
            write_through(beside / _UPDATE, update)
            if personal is not None:
                write_through(beside / _PERSONAL, personal)
            flush_folder(beside)
        except OSError as error:
            shutil.rmtree(beside, ignore_errors=True)
            raise cannot_be_written(self._folder, error) from error
        self.discard()
        beside.rename(self._folder)
        flush_folder(self._folder.parent)

    def pending(self) -> PendingUpdate | None:
        """Return the update that waits, if there is one.

        Raises:
            StateError: its file is damaged.
        """
        if not self._folder.exists():
            return None
        content = (self._folder / _UPDATE).read_bytes()
        try:
            header = tensors.read_header(io.BytesIO(content))
            return PendingUpdate(UpdateManifest.model_validate_json(header.manifest_json), content)
        except (TensorFileError, ValidationError) as error:
            raise StateError(
                f"{self._folder / _UPDATE} is damaged ({error}); remove the folder to train again"
            ) from error

    def acknowledged(self) -> None:
        """The coordinator has the update: let the personal parameters take effect, and forget the update."""
        if (self._folder / _PERSONAL).exists():
            self._personal.adopt(self._folder / _PERSONAL)
        self.discard()

    def discard(self) -> None:
        """Forget the update."""
        if self._folder.exists():
            # Renamed first: a folder that is half removed must not pass for a pending update.
            gone = self._folder.with_name(".outbox.gone")
            shutil.rmtree(gone, ignore_errors=True)
            self._folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
