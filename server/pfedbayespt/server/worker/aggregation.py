"""From a base version and the updates of a round to the next version, streamed.

    theta' = theta + d,   d = sum_i w_i * delta_i         (w_i: `rounds.weights`)
    theta' = theta + step(state'),   state' = remember(state, d)        with a server optimiser (`optimisers`)

Rules:
1. Sums are taken in float64 and in the order of the updates' digests, so that the result does not depend on who
   came first; it is rounded to the tensor's own type once, at the end.
2. Slices are combined one after another, and one update's file is open at a time: memory is bounded by the length
   of a slice, and the number of sites adds no more than where each file's tensors lie. The length of a slice does
   not change a bit of the result.
3. The file is the one that `tensors.encode` writes for the same arrays and manifest, so redoing an aggregation from
   its recorded inputs (base, updates, the optimiser's previous state) gives the same digests (promise P2).
4. An optimiser works on what training touches. Tensors `statistics.*` are averaged, and have no state.

Another rule of aggregation is another `Combine` function; one that needs all deltas of a slice at once, such as a
trimmed mean, stacks them, and its memory grows with the number of sites.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt

from pfedbayespt.protocol import (
    Digest,
    OptimiserStateManifest,
    ParametersManifest,
    RoundTask,
    TensorHeader,
    TensorSchema,
    TensorSpec,
    tensors,
)
from pfedbayespt.server.blobs import TemporaryBlob
from pfedbayespt.server.failpoints import failpoint
from pfedbayespt.server.worker.optimisers import Optimiser

Float64Array = npt.NDArray[np.float64]
Combine = Callable[[Iterable[tensors.FloatArray], Sequence[float]], Float64Array]
"""From one slice of every delta, in digest order and to be read once, and the weights: what to add to the base."""

SLICE_ELEMENTS: Final = 2**16


class AggregationError(Exception):
    """The aggregate cannot be a model version."""


@dataclass(frozen=True)
class WeightedUpdate:
    """An update's file, verified, to be opened as often as needed, and its share."""

    digest: Digest
    open: Callable[[], BinaryIO]
    weight: float


@dataclass(frozen=True)
class ServerStep:
    """A server optimiser at work: its state before the round (None: the first) and where the one after it goes."""

    optimiser: Optimiser
    previous: BinaryIO | None
    manifest: OptimiserStateManifest
    output: TemporaryBlob


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
    step: ServerStep | None = None,
    combine: Combine = weighted_mean,
    slice_elements: int = SLICE_ELEMENTS,
) -> None:
    """Write the next version's file into `output`, and with `step` the optimiser's next state into its own.

    Raises:
        TensorFileError: a file is no tensor file, or an update's tensors are not those of the base.
        AggregationError: there are no updates, or a number of the result is too large for its type.
        StorageExhausted: the disk is full.
    """
    if not updates:
        raise AggregationError("there are no updates to aggregate")
    header = tensors.read_header(base)
    deltas = _Deltas(updates, header, combine)
    change = deltas.mean if step is None else _advanced(step, deltas, header.schema, slice_elements)
    output.write(tensors.encode_header(header.schema, manifest))
    for spec in tensors.data_order(header.schema):
        for indices in tensors.slices(spec.num_elements, slice_elements):
            theta = tensors.read_slice(base, header, spec, indices)
            output.write(_moved(theta, change(spec, indices), spec.name).tobytes())
        failpoint("aggregate.mid_file")


class _Deltas:
    """The updates in digest order; of each header only the places of the tensors are kept, equal ones once."""

    def __init__(self, updates: Sequence[WeightedUpdate], base: TensorHeader, combine: Combine) -> None:
        ordered = sorted(updates, key=lambda update: update.digest)
        shared: dict[frozenset[tuple[str, int]], TensorHeader] = {}
        self._sources = [(update.open, _header_like(update, base, shared)) for update in ordered]
        self._weights = [update.weight for update in ordered]
        self._combine = combine

    def mean(self, spec: TensorSpec, indices: range) -> Float64Array:
        """Return the combined change of those elements."""
        return self._combine(self._each(spec, indices), self._weights)

    def _each(self, spec: TensorSpec, indices: range) -> Iterator[tensors.FloatArray]:
        for open_, header in self._sources:
            with open_() as file:
                elements = tensors.read_slice(file, header, spec, indices)
            yield elements


def _header_like(
    update: WeightedUpdate, base: TensorHeader, shared: dict[frozenset[tuple[str, int]], TensorHeader]
) -> TensorHeader:
    with update.open() as file:
        header = tensors.read_header(file)
    tensors.check_schema(header.schema, base.schema)
    return shared.setdefault(
        frozenset(header.starts.items()), replace(header, schema=base.schema, manifest_json="")
    )


def _advanced(
    step: ServerStep, deltas: _Deltas, schema: TensorSchema, slice_elements: int
) -> Callable[[TensorSpec, range], Float64Array]:
    """Write the optimiser's next state; return the function that reads from it how far to move."""
    trained = [spec for spec in schema if RoundTask.TRAINING.touches(spec.name)]
    state_schema = tuple(_moments_of(spec, step.optimiser) for spec in trained)
    before = _moments_before(step, state_schema)
    step.output.write(tensors.encode_header(state_schema, step.manifest))
    for spec in trained:  # in the order of the data: all are float64, so by name
        for indices in tensors.slices(spec.num_elements, slice_elements):
            with np.errstate(over="ignore"):
                moments = step.optimiser.remember(before(spec, indices), deltas.mean(spec, indices))
            step.output.write(_finite(moments, f"the optimiser's state of {spec.name!r}").tobytes())
    after = _reader(step.output.file, state_schema, step.optimiser.num_moments)

    def change(spec: TensorSpec, indices: range) -> Float64Array:
        if not RoundTask.TRAINING.touches(spec.name):
            return deltas.mean(spec, indices)
        return step.optimiser.step(after(spec, indices))

    return change


def _moments_of(spec: TensorSpec, optimiser: Optimiser) -> TensorSpec:
    return TensorSpec(name=spec.name, dtype="F64", shape=(spec.num_elements, optimiser.num_moments))


def _moments_before(step: ServerStep, schema: TensorSchema) -> Callable[[TensorSpec, range], Float64Array]:
    if step.previous is None:
        return lambda _, indices: step.optimiser.start(len(indices))
    return _reader(step.previous, schema, step.optimiser.num_moments)


def _reader(
    file: BinaryIO, schema: TensorSchema, num_moments: int
) -> Callable[[TensorSpec, range], Float64Array]:
    """Return the function that reads the moments of some elements of a parameter from a state file."""
    header = tensors.read_header(file)
    tensors.check_schema(header.schema, schema)

    def moments(spec: TensorSpec, indices: range) -> Float64Array:
        flat = range(indices.start * num_moments, indices.stop * num_moments)
        elements = tensors.read_slice(file, header, header.spec(spec.name), flat)
        return cast("Float64Array", elements).reshape(-1, num_moments)

    return moments


def _moved(theta: tensors.FloatArray, change: Float64Array, name: str) -> tensors.FloatArray:
    with np.errstate(over="ignore"):
        moved = cast("tensors.FloatArray", (theta + change).astype(theta.dtype))
    return _finite(moved, f"tensor {name!r}")


def _finite(elements: tensors.FloatArray, subject: str) -> tensors.FloatArray:
    if not np.isfinite(elements).all():
        raise AggregationError(f"{subject} outgrows {elements.dtype}")
    return elements
