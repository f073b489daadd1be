"""What every blob store promises, and what they share."""

import errno
import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO, Final, Protocol

from pfedbayespt.protocol import Digest
from pfedbayespt.server.errors import StorageExhausted

DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


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
        with full_disk_refused():
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
            StorageUnavailable: the store does not answer; whether it has the blob is unknown. Try again.
            StorageBrokenError: the disk failed, now or before.
        """

    def ping(self) -> None:
        """Return if the store takes blobs now; StorageBrokenError or StorageUnavailable if not."""

    def check_sound(self) -> None:
        """Return unless only a restart can help (StorageBrokenError); asks nobody."""

    def open(self, digest: Digest, *, verify: bool = False) -> BinaryIO:
        """Open for reading, seekable; `verify` first reads all of it and compares the digest.

        Raises:
            BlobMissingError: there is none.
            BlobCorruptError: `verify` found other bytes.
            StorageUnavailable: the store does not answer, which says nothing about the blob. So all methods.
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


def hex_digits(digest: Digest) -> str:
    """Return the digest's 64 digits; ValueError if it is none."""
    match = DIGEST.fullmatch(digest)
    if match is None:
        raise ValueError(f"{digest!r} is not `sha256:` and 64 lower-case hexadecimal digits")
    return match[1]


def verified(file: io.BufferedReader | io.BytesIO, digest: Digest) -> BinaryIO:
    """Return the file, at its start, after reading all of it; BlobCorruptError if it has another digest."""
    actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != hex_digits(digest):
        file.close()
        raise BlobCorruptError(f"blob {digest} is damaged: its bytes have sha256:{actual}")
    file.seek(0)
    return file


@contextmanager
def full_disk_refused() -> Iterator[None]:
    """Have a full disk told as StorageExhausted."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise StorageExhausted("the coordinator's disk or quota is full; try again later") from error
