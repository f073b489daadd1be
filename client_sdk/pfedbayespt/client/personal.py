"""Parameters that never leave this machine, each kept beside the model version that it was tuned on top of.

Rules:
1. A file is named by that version's number and says it inside; what is tuned again from the same version takes its
   place.
2. A version is used with the newest parameters that were tuned from it or from one before it. After a rollback,
   nothing that was tuned on what was rolled back takes part.
3. The last few are kept, so that a rollback finds its own.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from pfedbayespt.client.errors import StateError
from pfedbayespt.client.state import flush_folder, write_whole
from pfedbayespt.protocol import Message, TensorFileError, tensors

KEPT_FILES = 8


class PersonalManifest(Message):
    """What a file of personal parameters says about itself."""

    format: Literal["pfedbayespt.personal/1"] = "pfedbayespt.personal/1"
    origin: Literal["round", "adaptation"] = "round"
    model_version: int


@dataclass(frozen=True)
class PersonalStore:
    """A site's personal parameters, by the version that they were tuned from."""

    folder: Path

    def of_version(self, number: int) -> bytes | None:
        """Return the file to use with version `number`; None: there is none."""
        fitting = [file for file in self._files() if int(file.stem) <= number]
        return fitting[-1].read_bytes() if fitting else None

    def keep(self, content: bytes) -> None:
        """Keep a file, in place of what was tuned from the same version before."""
        write_whole(self._file(version_of(content)), content)
        self._forget_the_oldest()

    def adopt(self, file: Path) -> None:
        """Move a file here, from the same disk."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        file.replace(self._file(version_of(file.read_bytes())))
        flush_folder(self.folder)
        self._forget_the_oldest()

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:08d}.safetensors"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.safetensors"))

    def _forget_the_oldest(self) -> None:
        for file in self._files()[:-KEPT_FILES]:
            file.unlink(missing_ok=True)


def version_of(content: bytes) -> int:
    """Return the number of the version that personal parameters were tuned from.

    Raises:
        StateError: the file is damaged.
    """
    try:
        header = tensors.read_header(io.BytesIO(content))
        return PersonalManifest.model_validate_json(header.manifest_json).model_version
    except (TensorFileError, ValidationError) as error:
        raise StateError(f"the site's personal parameters are damaged: {error}") from error
