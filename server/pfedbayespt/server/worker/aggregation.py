"""From a base version and the updates of a round to the next version: a weighted mean of deltas, streamed.

    theta' = theta + sum_i w_i * delta_i        (w_i: `rounds.weights`)

Rules:
1. Sums are taken in float64 and in the order of the updates' digests, so that the result does not depend on who
   came first; it is rounded to the tensor's own type once, at the end.
2. Slices are combined one after another: memory is bounded by the length of a slice, not by the model or the number
   of sites, and that length does not change a bit of the result.
3. The file is the one that `tensors.encode` writes for the same arrays and manifest, so redoing an aggregation from
   its recorded inputs gives the same digest (promise P2).

Another rule of aggregation is another `Combine` function; one that needs all deltas of a slice at once, such as a
trimmed mean, stacks them, and its memory grows with the number of sites.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt

from pfedbayespt.protocol import Digest, ParametersManifest, TensorHeader, tensors
from pfedbayespt.server.blobs import TemporaryBlob
from pfedbayespt.server.failpoints import failpoint

Float64Array = npt.NDArray[np.float64]
Combine = Callable[[Iterable[tensors.FloatArray], Sequence[float]], Float64Array]
"""From one slice of every delta, in digest order and to be read once, and the weights: what to add to the base."""

SLICE_ELEMENTS: Final = 2**16


class AggregationError(Exception):
    """The aggregate cannot be a model version."""


@dataclass(frozen=True)
class WeightedUpdate:
    """An update's file, open and verified, and its share."""

    digest: Digest
    file: BinaryIO
    weight: float


def weighted_mean(deltas: Iterable[tensors.FloatArray], weights: Sequence[float]) -> Float64Array:
    """Return sum_i w_i * delta_i, added up in the order given."""
    terms = (
        np.multiply(delta, weight, dtype=np.float64) for delta, weight in zip(deltas, weights, strict=True)
    )
    total = next(terms)
    for term in terms:
        total += term
    return total


def aggregate(
    base: BinaryIO,
    updates: Sequence[WeightedUpdate],
    manifest: ParametersManifest,
    output: TemporaryBlob,
    *,
    combine: Combine = weighted_mean,
    slice_elements: int = SLICE_ELEMENTS,
) -> None:
    """Write the next version's file into `output`.

    Raises:
        TensorFileError: a file is no tensor file, or an update's tensors are not those of the base.
        AggregationError: there are no updates, or a number of the result is too large for its type.
        StorageExhausted: the disk is full.
    """
    if not updates:
        raise AggregationError("there are no updates to aggregate")
    ordered = sorted(updates, key=lambda update: update.digest)
    header = tensors.read_header(base)
    headers = [_header_like(update.file, header) for update in ordered]
    weights = [update.weight for update in ordered]
    output.write(tensors.encode_header(header.schema, manifest))
    for spec in tensors.data_order(header.schema):
        streams = [
            tensors.iter_slices(update.file, its_header, spec.name, slice_elements)
            for update, its_header in zip(ordered, headers, strict=True)
        ]
        for theta in tensors.iter_slices(base, header, spec.name, slice_elements):
            change = combine((next(stream) for stream in streams), weights)
            output.write(_moved(theta, change, spec.name).tobytes())
        failpoint("aggregate.mid_file")


def _header_like(file: BinaryIO, base: TensorHeader) -> TensorHeader:
    header = tensors.read_header(file)
    tensors.check_schema(header.schema, base.schema)
    return header


def _moved(theta: tensors.FloatArray, change: Float64Array, name: str) -> tensors.FloatArray:
    with np.errstate(over="ignore"):
        moved = cast("tensors.FloatArray", (theta + change).astype(theta.dtype))
    if not np.isfinite(moved).all():
        raise AggregationError(f"tensor {name!r} outgrows {theta.dtype}")
    return moved
