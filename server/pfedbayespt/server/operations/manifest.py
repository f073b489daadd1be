"""What a backup says about itself: the file `backup.json`.

backup.json                      written last, and replaced whole
database-<12 digits>.sqlite3     or .pgdump: the snapshot, named by its SHA-256
coordinator-key.pem              the coordinator's private key, unless it was left out
blobs/sha256/ab/ab12...          the tensor files, as a coordinator's folder has them
"""

import hashlib
import os
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pfedbayespt.protocol import Digest
from pfedbayespt.server.operations.errors import OperationError

MANIFEST_FILE: Final = "backup.json"
KEY_FILE: Final = "coordinator-key.pem"


class BackupManifest(BaseModel):
    """A backup's contents."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    created_at: datetime
    release: str
    schema_revisions: tuple[str, ...]
    database_kind: Literal["sqlite", "postgresql"]
    database_file: str
    database_digest: Digest
    key_id: str | None
    blobs: tuple[Digest, ...]
    audit_heads: dict[str, str]


def read_manifest(folder: Path) -> BackupManifest:
    """Return what the backup in `folder` says about itself.

    Raises:
        OperationError: there is none, or it cannot be read.
    """
    try:
        return BackupManifest.model_validate_json((folder / MANIFEST_FILE).read_bytes())
    except FileNotFoundError as error:
        raise OperationError(f"{folder} holds no backup: it has no {MANIFEST_FILE}") from error
    except ValidationError as error:
        raise OperationError(
            f"{folder / MANIFEST_FILE} is not one that this release reads: {error}"
        ) from error


def write_durably(file: Path, content: bytes) -> None:
    """Put `content` under that name, for its owner alone, in place of any other: all of it or nothing."""
    beside = file.with_name(f".{file.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    beside.replace(file)
    sync_folder(file.parent)


def sync(file: Path) -> None:
    """Make the file's content and its name durable."""
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in the folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of_file(file: Path) -> Digest:
    """Return the SHA-256 of the file's content."""
    with file.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
