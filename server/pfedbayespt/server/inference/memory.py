"""What an image took goes back to the system."""

import ctypes
from typing import Final

_M_MMAP_THRESHOLD: Final = -3  # of glibc's <malloc.h>
_LARGE_BYTES: Final = (
    8 * 1024 * 1024
)  # below Pillow's blocks of 16 MiB, above what one answer's activations need


def return_large_blocks() -> None:
    """Have large blocks of memory mapped one by one, so that freeing one gives it back; glibc only, else nothing.

    By itself glibc moves its threshold up (mallopt(3)): after the first large image, those of later ones come from
    the heaps of the threads, which kept 135 MB and made one image of 171 MB cost 267.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
