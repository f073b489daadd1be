"""Local copies of blobs that lie elsewhere: an aggregation opens each update once per slice."""

import io
import os
import threading
from collections import OrderedDict
from typing import BinaryIO, Final

from pfedbayespt.protocol import Digest

_MAX_BYTES: Final = 2**30
_MAX_FILES: Final = 512


class FileCache:
    """Keeps the last files read, up to a size and a number. They have no names: none outlives its process."""

    def __init__(self, max_bytes: int = _MAX_BYTES, max_files: int = _MAX_FILES) -> None:
        self._max_bytes, self._max_files = max_bytes, max_files
        self._files: OrderedDict[Digest, BinaryIO] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, digest: Digest) -> BinaryIO | None:
        """Open the copy for reading, if there is one."""
        with self._lock:
            file = self._files.get(digest)
            if file is None:
                return None
            self._files.move_to_end(digest)
            return reader(file)

    def add(self, digest: Digest, file: BinaryIO) -> None:
        """Keep the file, which belongs to the cache from now on, in place of any other of that digest."""
        with self._lock:
            self._drop(digest)
            self._files[digest] = file
            while self._files and self._is_too_full():
                self._drop(next(iter(self._files)))

    def drop(self, digest: Digest) -> None:
        """Forget the copy; who reads it goes on."""
        with self._lock:
            self._drop(digest)

    def _drop(self, digest: Digest) -> None:
        file = self._files.pop(digest, None)
        if file is not None:
            file.close()

    def _is_too_full(self) -> bool:
        sizes = [os.fstat(file.fileno()).st_size for file in self._files.values()]
        return len(sizes) > self._max_files or sum(sizes) > self._max_bytes


def reader(file: BinaryIO) -> BinaryIO:
    """Open a file once more, for reading from a place of its own; it may be closed before."""
    return io.BufferedReader(_Reader(file.fileno()))


class _Reader(io.RawIOBase):
    """A descriptor's content, read without moving the place that all its duplicates share."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = os.dup(descriptor)
        self._offset = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = os.fstat(self._descriptor).st_size
        self._offset = {io.SEEK_SET: 0, io.SEEK_CUR: self._offset, io.SEEK_END: size}[whence] + offset
        return self._offset

    def tell(self) -> int:
        return self._offset

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed has a private type here
        count = os.preadv(self._descriptor, [buffer], self._offset)
        self._offset += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()
