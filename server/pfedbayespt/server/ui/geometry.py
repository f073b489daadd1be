"""How large the updates of a round are, and whether they point the same way.

With updates u_1..u_n as vectors and their Gram matrix G_ij = <u_i, u_j>, the mean is m = (1/n) sum_j u_j, so

    |u_i| = sqrt(G_ii)        cos(u_i, m) = (sum_j G_ij) / (|u_i| sqrt(sum_jk G_jk))

and G is summed up slice by slice from the stored files: memory does not grow with the model.
"""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from pfedbayespt.protocol import TensorFileError, Update, UpdateStatus, tensors
from pfedbayespt.server.blobs import BlobError, BlobStore

MAX_TOTAL_BYTES: Final = 512 * 2**20
"""More than this is not read for one picture."""
_SLICE_ELEMENTS: Final = 2**16


@dataclass(frozen=True)
class Direction:
    """One update: its norm, and its cosine to the mean; None where either has length zero."""

    site_id: str
    norm: float
    cosine: float | None


def directions_of(blobs: BlobStore, updates: Sequence[Update]) -> tuple[Direction, ...] | None:
    """Return the geometry of the updates that were taken; None: too much to read, or a file is gone."""
    taken = [update for update in updates if update.status != UpdateStatus.QUARANTINED]
    if not taken or sum(update.size_bytes for update in taken) > MAX_TOTAL_BYTES:
        return None
    try:
        gram = _gram(blobs, tuple(update.digest for update in taken))  # type: ignore[arg-type]  # by identity
    except (BlobError, TensorFileError):
        return None
    return tuple(
        Direction(update.site_id, norm, cosine)
        for update, (norm, cosine) in zip(taken, norms_and_cosines(gram), strict=True)
    )


def norms_and_cosines(gram: npt.NDArray[np.float64]) -> list[tuple[float, float | None]]:
    """Return |u_i| and cos(u_i, mean) from the Gram matrix, as the module says."""
    to_mean, of_mean = gram.sum(axis=1), math.sqrt(max(0.0, float(gram.sum())))
    norms = np.sqrt(np.maximum(0.0, np.diag(gram)))
    return [
        (float(norm), float(inner / (norm * of_mean)) if norm and of_mean else None)
        for norm, inner in zip(norms, to_mean, strict=True)
    ]


@lru_cache(maxsize=256)
def _gram(blobs: BlobStore, digests: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """Return the Gram matrix of immutable files, so it is computed once for the same ones."""
    gram = np.zeros((len(digests), len(digests)))
    with ExitStack() as stack:
        files = [stack.enter_context(blobs.open(digest)) for digest in digests]
        headers = [tensors.read_header(file) for file in files]
        for spec in headers[0].schema:
            for indices in tensors.slices(spec.num_elements, _SLICE_ELEMENTS):
                rows = [
                    tensors.read_slice(file, header, spec, indices)
                    for file, header in zip(files, headers, strict=True)
                ]
                stacked = np.stack(rows).astype(np.float64)
                gram += stacked @ stacked.T
    return gram
