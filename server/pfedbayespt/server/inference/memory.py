"""What a large image took goes back to the system; what each answer takes stays at hand."""

from typing import Final

from pfedbayespt.server.memory import return_blocks

_LARGE_BYTES: Final = 8 * 1024 * 1024  # below Pillow's blocks of 16 MiB, above the activations of one answer
_KEPT_BYTES: Final = 16 * 1024 * 1024  # 64 MiB kept 97 MB; 128 KiB costs 3,000 page faults an answer


def return_large_blocks() -> None:
    """Have large blocks of memory mapped one by one, so that freeing one gives it back; glibc only, else nothing.

    After the first large image, glibc would take those of later ones from the heaps of the threads, which kept
    135 MB and made one image of 171 MB cost 267 (`server.memory`).
    """
    return_blocks(_LARGE_BYTES, _KEPT_BYTES)
