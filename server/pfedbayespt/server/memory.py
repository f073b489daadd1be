"""How the C library keeps memory that Python has given back."""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # of glibc's <malloc.h>
_M_MMAP_THRESHOLD: Final = -3
_BUFFER_BYTES: Final = 64 * 1024  # below the batches of uploads and the slices of tensors
_KEPT_BYTES: Final = 1024 * 1024


def return_blocks(at_least_bytes: int, kept_bytes: int) -> None:
    """Map blocks of that size one by one, so that freeing one gives it back; glibc only, else nothing.

    By itself glibc moves its threshold up (mallopt(3)): after the first large block, later ones come from the heaps
    of the threads. A threshold that is set fixes the other one too, which says how much stays at the end of a heap:
    so `kept_bytes` sets that as well.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, at_least_bytes)
        mallopt(_M_TRIM_THRESHOLD, kept_bytes)


def return_buffers() -> None:
    """Give back the buffers of uploads: else every thread's heap keeps the most that it ever held at once."""
    return_blocks(_BUFFER_BYTES, _KEPT_BYTES)
