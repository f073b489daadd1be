"""What sites add in a round: the numbers of `pfedbayespt.simulation.synthetic`, for NumPy alone."""

import numpy as np
import numpy.typing as npt

NUM_TENSORS = 4
Arrays = list[npt.NDArray[np.float32]]


def blank(megabytes: float) -> Arrays:
    """Return zeros of that size in all."""
    elements = max(1, int(megabytes * 1e6 / 4 / NUM_TENSORS))
    return [np.zeros(elements, np.float32) for _ in range(NUM_TENSORS)]


def draws(site: int, megabytes: float) -> Arrays:
    """Return the numbers of a site, uniform in [-0.5, 0.5)."""
    return [
        np.random.default_rng((site, index)).random(like.shape, dtype=np.float32) - np.float32(0.5)
        for index, like in enumerate(blank(megabytes))
    ]


def factor(round_number: int) -> np.float32:
    """Return what the numbers are multiplied by in a round, so that every payload is unique."""
    return np.float32((round_number % 97 + 1) / 97)
