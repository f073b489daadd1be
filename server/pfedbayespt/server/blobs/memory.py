"""Blobs in memory, for tests and trials."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pfedbayespt.protocol import Digest
from pfedbayespt.server.blobs.port import BlobMissingError, TemporaryBlob, hex_digits, verified


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
        digits = hex_digits(blob.digest)
        self._blobs[digits], self._put_at[digits] = blob.file.read(), time.monotonic()

    def ping(self) -> None:
        """Return."""

    def check_sound(self) -> None:
        """Return."""

    def open(self, digest: Digest, *, verify: bool = False) -> BinaryIO:
        """Open the bytes as a file."""
        file = io.BytesIO(self._content(digest))
        return verified(file, digest) if verify else file

    def exists(self, digest: Digest) -> bool:
        """Return whether the dictionary holds it."""
        return hex_digits(digest) in self._blobs

    def size_bytes(self, digest: Digest) -> int:
        """Return how many bytes there are."""
        return len(self._content(digest))

    def delete(self, digest: Digest) -> None:
        """Forget the bytes."""
        self._blobs.pop(hex_digits(digest), None)

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
            return self._blobs[hex_digits(digest)]
        except KeyError:
            raise BlobMissingError(f"there is no blob {digest}") from None
