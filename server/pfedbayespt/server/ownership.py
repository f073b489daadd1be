"""One process owns an embedded database's folder: two would take each other's temporary files for litter."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FolderInUseError(RuntimeError):
    """Another process runs on the same folder."""


@contextmanager
def sole_owner(folder: Path) -> Iterator[None]:
    """Hold the folder until the end of the block; the operating system lets go if the process dies.

    Raises:
        FolderInUseError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUseError(
                f"another coordinator runs on {folder}; stop it, or use another data_dir"
            ) from error
        yield
    finally:
        os.close(descriptor)
