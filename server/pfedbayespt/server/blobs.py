"""Where tensor files are kept: content-addressed, immutable, durable before they are acknowledged.

Rules:
1. A blob's name is the SHA-256 of its bytes; nothing a caller sends ever becomes a path.
2. `put` returns once the blob survives a power cut: fsync(file), rename, fsync(folder), in this order, and the
   folder's own entry in its parent too. Readers see a whole blob or none.
3. Putting a blob again is harmless, and mends one that was damaged on disk.
4. A failed fsync is never tried again: the kernel may have dropped the pages and would report success. The store
   tells `on_broken`, which ends a server's process, and takes nothing more. A full disk is different: it is refused
   as such.
5. What a crash left behind is removed once it is old: files in `temporary/`, and blobs that no row names (the
   worker's sweep). `put` gives a blob the present time, and a lock file keeps it and a deletion apart, across
   processes too; so a blob that was just put is never taken for an old one of the same bytes. Ages are told by the
   time that the file system gives, whatever the machine's clock says.
"""

import errno
import fcntl
import hashlib
import io
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NoReturn, Protocol

from pfedbayespt.protocol import Digest
from pfedbayespt.server.errors import StorageExhausted
from pfedbayespt.server.failpoints import failpoint

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


OnBroken = Callable[[Exception], None]
"""Told that an fsync has failed, so that what the disk holds is unknown."""


def leave_it(error: Exception) -> None:
    """Do nothing about a broken disk: whoever embeds the server sees to it."""


class BlobError(Exception):
    """A blob is not what its digest promises."""


class BlobMissingError(BlobError):
    """The store holds no blob of this digest."""


class BlobCorruptError(BlobError):
    """The blob's bytes no longer have its digest."""


class StorageBrokenError(Exception):
    """An fsync failed: what the disk holds is unknown, so nothing is acknowledged before a restart."""


class TemporaryBlob:
    """A blob being written: counts and hashes what passes. It is gone after its `with` block unless it was put."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size_bytes = 0
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> Digest:
        """`sha256:<hex>` of what was written so far."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, chunk: bytes | bytearray | memoryview) -> None:
        """Append `chunk`.

        Raises:
            StorageExhausted: the disk or the quota is full.
        """
        with _full_disk_refused():
            self.file.seek(0, io.SEEK_END)
            self.file.write(chunk)
            self.file.flush()
        self._hash.update(chunk)
        self.size_bytes += len(chunk)


class BlobStore(Protocol):
    """Keeps immutable blobs under their digests. Implementations are thread-safe."""

    def create(self) -> AbstractContextManager[TemporaryBlob]:
        """Open a temporary blob, which belongs to this store and is removed at the end of the block."""

    def put(self, blob: TemporaryBlob) -> None:
        """Keep the blob under `blob.digest`, durably.

        Raises:
            StorageExhausted: the disk or the quota is full; nothing was kept.
            StorageBrokenError: the disk failed, now or before.
        """

    def ping(self) -> None:
        """Return if the store takes blobs; StorageBrokenError if not."""

    def open(self, digest: Digest, *, verify: bool = False) -> BinaryIO:
        """Open for reading, seekable; `verify` first reads all of it and compares the digest.

        Raises:
            BlobMissingError: there is none.
            BlobCorruptError: `verify` found other bytes.
        """

    def exists(self, digest: Digest) -> bool:
        """Return whether the store holds the blob."""

    def size_bytes(self, digest: Digest) -> int:
        """Return its size; BlobMissingError if there is none."""

    def delete(self, digest: Digest) -> None:
        """Remove the blob, if it is there."""

    def aged(self, seconds: float) -> Iterator[Digest]:
        """Yield the blobs that were put longer ago than that, in no particular order."""

    def delete_if_aged(self, digest: Digest, seconds: float) -> bool:
        """Remove the blob unless it was put within that time, at the last moment too; return whether it was."""

    def discard_leftovers(self, seconds: float = 0.0) -> int:
        """Remove what a crash left half written longer ago than that, and return how much."""


class FolderBlobStore:
    """Blobs as files `<root>/blobs/sha256/ab/ab12...`, temporary ones in `<root>/temporary` beside them."""

    def __init__(self, root: Path, on_broken: OnBroken = leave_it) -> None:
        self._on_broken = on_broken
        self._blobs = root / "blobs" / "sha256"
        self._temporary = root / "temporary"
        self._lock = root / "sweep.lock"
        self._durable_shards: set[Path] = set()  # those whose entry in `_blobs` this process has made durable
        self._failure: OSError | None = None
        with _full_disk_refused():
            if not root.is_dir():
                self._make_folder(root)
            for folder in (self._blobs.parent, self._blobs, self._temporary):
                self._make_folder(folder)

    @contextmanager
    def create(self) -> Iterator[TemporaryBlob]:
        """Open a temporary blob in a file of its own."""
        path = self._temporary / f"{secrets.token_hex(16)}.partial"
        with _full_disk_refused():
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
        with _full_disk_refused():
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
        if self._failure is not None:
            raise StorageBrokenError(f"an fsync failed ({self._failure}); restart once the disk is sound")

    def open(self, digest: Digest, *, verify: bool = False) -> BinaryIO:
        """Open the blob's file for reading."""
        try:
            file = self._path(digest).open("rb")
        except FileNotFoundError as error:
            raise BlobMissingError(f"there is no blob {digest}") from error
        return _verified(file, digest) if verify else file

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
                if _DIGEST.fullmatch(digest) and _modified_at(path) < before:
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
        digits = _hex_digits(digest)
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
                error.errno in _NO_SPACE
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


class MemoryBlobStore:
    """Blobs in a dictionary, gone with the process: for tests and trials."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._put_at: dict[str, float] = {}

    @contextmanager
    def create(self) -> Iterator[TemporaryBlob]:
        """Open a temporary blob in memory."""
        with io.BytesIO() as file:
            yield TemporaryBlob(file)

    def put(self, blob: TemporaryBlob) -> None:
        """Keep the bytes."""
        blob.file.seek(0)
        digits = _hex_digits(blob.digest)
        self._blobs[digits], self._put_at[digits] = blob.file.read(), time.monotonic()

    def ping(self) -> None:
        """Return."""

    def open(self, digest: Digest, *, verify: bool = False) -> BinaryIO:
        """Open the bytes as a file."""
        file = io.BytesIO(self._content(digest))
        return _verified(file, digest) if verify else file

    def exists(self, digest: Digest) -> bool:
        """Return whether the dictionary holds it."""
        return _hex_digits(digest) in self._blobs

    def size_bytes(self, digest: Digest) -> int:
        """Return how many bytes there are."""
        return len(self._content(digest))

    def delete(self, digest: Digest) -> None:
        """Forget the bytes."""
        self._blobs.pop(_hex_digits(digest), None)

    def aged(self, seconds: float) -> Iterator[Digest]:
        """Yield the blobs that were put longer ago than that."""
        before = time.monotonic() - seconds
        yield from [f"sha256:{digits}" for digits in self._blobs if self._put_at[digits] < before]

    def delete_if_aged(self, digest: Digest, seconds: float) -> bool:
        """Forget the bytes if they were put longer ago than that."""
        is_aged = digest in set(self.aged(seconds))
        if is_aged:
            self.delete(digest)
        return is_aged

    def discard_leftovers(self, seconds: float = 0.0) -> int:  # noqa: ARG002  (nothing outlives its process)
        """Return 0."""
        return 0

    def _content(self, digest: Digest) -> bytes:
        try:
            return self._blobs[_hex_digits(digest)]
        except KeyError:
            raise BlobMissingError(f"there is no blob {digest}") from None


def _modified_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # put or removed by another thread meanwhile
        return math.inf


def _hex_digits(digest: Digest) -> str:
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise ValueError(f"{digest!r} is not `sha256:` and 64 lower-case hexadecimal digits")
    return match[1]


def _verified(file: io.BufferedReader | io.BytesIO, digest: Digest) -> BinaryIO:
    actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != _hex_digits(digest):
        file.close()
        raise BlobCorruptError(f"blob {digest} is damaged: its bytes have sha256:{actual}")
    file.seek(0)
    return file


@contextmanager
def _full_disk_refused() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        raise StorageExhausted("the coordinator's disk or quota is full; try again later") from error
