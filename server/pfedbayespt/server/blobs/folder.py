"""Blobs in a folder: durable by the order of fsync, rename, fsync."""

import fcntl
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn

from pfedbayespt.protocol import Digest
from pfedbayespt.server.blobs.port import (
    DIGEST,
    NO_SPACE,
    BlobMissingError,
    OnBroken,
    StorageBrokenError,
    TemporaryBlob,
    full_disk_refused,
    hex_digits,
    leave_it,
    verified,
)
from pfedbayespt.server.failpoints import failpoint


class FolderBlobStore:
    """Blobs as files `<root>/blobs/sha256/ab/ab12...`, temporary ones in `<root>/temporary` beside them."""

    def __init__(self, root: Path, on_broken: OnBroken = leave_it) -> None:
        self._on_broken = on_broken
        self._blobs = root / "blobs" / "sha256"
        self._temporary = root / "temporary"
        self._lock = root / "sweep.lock"
        self._durable_shards: set[Path] = set()  # those whose entry in `_blobs` this process has made durable
        self._failure: OSError | None = None
        with full_disk_refused():
            if not root.is_dir():
                self._make_folder(root)
            for folder in (self._blobs.parent, self._blobs, self._temporary):
                self._make_folder(folder)

    @contextmanager
    def create(self) -> Iterator[TemporaryBlob]:
        """Open a temporary blob in a file of its own."""
        path = self._temporary / f"{secrets.token_hex(16)}.partial"
        with full_disk_refused():
            file = path.open("x+b")
        try:
            yield TemporaryBlob(file)
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # what a full disk refused was not put, and nobody misses it
                file.close()

    def put(self, blob: TemporaryBlob) -> None:
        """Keep the blob: fsync(file), rename, fsync(folder)."""
        self.ping()
        target = self._path(blob.digest)
        with full_disk_refused():
            failpoint("blob.before_fsync")
            self._fsync_file(blob.file.fileno())
            failpoint("blob.after_fsync")
            self._make_shard(target.parent)
            with self._locked(fcntl.LOCK_SH):
                os.utime(blob.file.name)
                Path(blob.file.name).replace(target)
            failpoint("blob.after_rename")
            self._fsync_folder(target.parent)

    def ping(self) -> None:
        """Return unless an fsync has failed."""
        self.check_sound()

    def check_sound(self) -> None:
        """Return unless an fsync has failed."""
        if self._failure is not None:
            raise StorageBrokenError(f"an fsync failed ({self._failure}); restart once the disk is sound")

    def open(self, digest: Digest, *, verify: bool = False) -> BinaryIO:
        """Open the blob's file for reading."""
        try:
            file = self._path(digest).open("rb")
        except FileNotFoundError as error:
            raise BlobMissingError(f"there is no blob {digest}") from error
        return verified(file, digest) if verify else file

    def exists(self, digest: Digest) -> bool:
        """Return whether the blob's file exists."""
        return self._path(digest).is_file()

    def size_bytes(self, digest: Digest) -> int:
        """Return the size of the blob's file."""
        try:
            return self._path(digest).stat().st_size
        except FileNotFoundError as error:
            raise BlobMissingError(f"there is no blob {digest}") from error

    def delete(self, digest: Digest) -> None:
        """Remove the blob's file, if it is there."""
        self._path(digest).unlink(missing_ok=True)

    def aged(self, seconds: float) -> Iterator[Digest]:
        """Yield the blobs whose files are older than that."""
        with self._locked(fcntl.LOCK_SH) as now:
            before = now - seconds
        for shard in self._blobs.iterdir():
            for path in shard.iterdir():
                digest = f"sha256:{path.name}"
                if DIGEST.fullmatch(digest) and _modified_at(path) < before:
                    yield digest

    def delete_if_aged(self, digest: Digest, seconds: float) -> bool:
        """Remove the blob's file if it is older than that; no `put` of the same bytes comes in between."""
        path = self._path(digest)
        with self._locked(fcntl.LOCK_EX) as now:
            is_aged = path.is_file() and _modified_at(path) < now - seconds
            if is_aged:
                path.unlink()
        return is_aged

    def discard_leftovers(self, seconds: float = 0.0) -> int:
        """Remove temporary files that were last written longer ago than that; 0 is for the folder's one owner."""
        with self._locked(fcntl.LOCK_SH) as now:
            before = now - seconds
        leftovers = [path for path in self._temporary.glob("*.partial") if _modified_at(path) <= before]
        for path in leftovers:
            path.unlink(missing_ok=True)
        return len(leftovers)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[float]:
        """Hold the lock file, shared to put and alone to delete; yield the file system's present time."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, kind)
            os.utime(descriptor)
            yield os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)

    def _path(self, digest: Digest) -> Path:
        digits = hex_digits(digest)
        return self._blobs / digits[:2] / digits

    def _make_shard(self, shard: Path) -> None:
        # A folder that exists may be another thread's or process's, not yet durable: so not "if it exists".
        if shard not in self._durable_shards:
            self._make_folder(shard)
            self._durable_shards.add(shard)

    def _make_folder(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fsync_folder(folder.parent)

    def _fsync_file(self, descriptor: int) -> None:
        try:
            os.fsync(descriptor)
        except OSError as error:
            if (
                error.errno in NO_SPACE
            ):  # blocks are allocated late; the file is dropped, and nothing else changed
                raise
            self._break(error)

    def _fsync_folder(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            self._break(error)
        finally:
            os.close(descriptor)

    def _break(self, error: OSError) -> NoReturn:
        self._failure = error
        self._on_broken(error)
        raise StorageBrokenError(f"fsync failed: {error}") from error


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # put or removed by another thread meanwhile
        return math.inf
