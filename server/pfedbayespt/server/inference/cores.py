"""Each answer has its share of the cores."""

import os

import torch


def share_cores(max_running: int) -> None:
    """Let each of `max_running` answers that are computed at once have its share of this process's cores.

    With more threads than cores, those of one answer wait for one another while the cores compute another answer.
    """
    torch.set_num_threads(max(1, min(_num_cores() // max_running, torch.get_num_threads())))


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: those that this process may use
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
