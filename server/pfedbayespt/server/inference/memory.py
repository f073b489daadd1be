"""What a large image took goes back to the system; what each answer takes stays at hand."""

import ctypes
from typing import Final

_M_TRIM_THRESHOLD: Final = -1  # of glibc's <malloc.h>
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 8 * 1024 * 1024  # below Pillow's blocks of 16 MiB, above the activations of one answer
_KEPT_BYTES: Final = 16 * 1024 * 1024  # 64 MiB kept 97 MB; 128 KiB costs 3,000 page faults an answer


def return_large_blocks() -> None:
    """Have large blocks of memory mapped one by one, so that freeing one gives it back; glibc only, else nothing.

    By itself glibc moves its threshold up (mallopt(3)): after the first large image, those of later ones come from
    the heaps of the threads, which kept 135 MB and made one image of 171 MB cost 267. A threshold that is set fixes
    the other one too, which says how much stays at the end of a heap; so that is set as well.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
