"""From a request's body to an update that may be kept: every check that needs no database.

Rules, in this order; the first that fails decides, and nothing that comes after it is looked at:
1. The body has the announced size and SHA-256 (`uploads`).
2. The file is one of the tensor codec's, and its schema is the federation's. No tensor is read before that.
3. The manifest is well-formed and speaks of this federation, round, task and base version.
4. Every number is finite and within `MAX_ABS`; tensors that the round's task does not touch are zero, that is
   `statistics.*` in a training round and all others in a statistics round.
"""

import math
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO, Final

import numpy as np
from pydantic import ValidationError

from pfedbayespt.protocol import (
    Digest,
    RoundTask,
    TensorFileError,
    TensorHeader,
    TensorSchema,
    UpdateManifest,
    tensors,
)
from pfedbayespt.server.blobs import TemporaryBlob
from pfedbayespt.server.errors import UpdateRejected
from pfedbayespt.server.uploads import AnnouncedBody, in_upload_thread, receive_body

# Far above any honest change of a parameter or a second moment, far below where sums could overflow.
MAX_ABS: Final = {RoundTask.TRAINING: 1e6, RoundTask.STATISTICS: 1e9}
_MAX_DETAIL_CHARACTERS: Final = 1000
_SLICE_ELEMENTS: Final = 2**16


class RejectionReason(StrEnum):
    """Why an update is refused: the `reason` member of the problem document."""

    FILE_MALFORMED = "file_malformed"
    SCHEMA_MISMATCH = "schema_mismatch"
    MANIFEST_INVALID = "manifest_invalid"
    WRONG_FEDERATION = "wrong_federation"
    WRONG_ROUND = "wrong_round"
    WRONG_TASK = "wrong_task"
    WRONG_BASE = "wrong_base"
    NOT_FINITE = "not_finite"
    OUT_OF_BOUNDS = "out_of_bounds"
    NOT_ZERO = "not_zero"


@dataclass(frozen=True)
class ExpectedUpdate:
    """What an update of this round must be."""

    federation: str
    round_id: str
    task: RoundTask
    base_digest: Digest
    schema: TensorSchema


@dataclass(frozen=True)
class ReceivedUpdate:
    """An update that passed every check; `blob` still has to be put into the store."""

    blob: TemporaryBlob
    digest: Digest
    size_bytes: int
    manifest: UpdateManifest
    schema: TensorSchema
    delta_norm: float


async def receive_update(
    chunks: AsyncIterable[bytes], blob: TemporaryBlob, announced: AnnouncedBody, expected: ExpectedUpdate
) -> ReceivedUpdate:
    """Stream the body into `blob` and check it.

    Raises:
        InvalidRequest, DigestMismatch, StorageExhausted: see `uploads.receive_body`; nothing is worth recording.
        UpdateRejected: the file arrived whole and fails a check; see `claims_of` for what to record of it.
    """
    await receive_body(chunks, blob, announced)
    return await in_upload_thread(check_update, blob, expected)


def check_update(blob: TemporaryBlob, expected: ExpectedUpdate) -> ReceivedUpdate:
    """Return the update that `blob` holds, or raise UpdateRejected with a `RejectionReason`."""
    header = _checked_header(blob.file, expected.schema)
    manifest = _checked_manifest(header.manifest_json, expected)
    squares = [_checked_square_sum(blob.file, header, spec.name, manifest.task) for spec in header.schema]
    return ReceivedUpdate(
        blob=blob,
        digest=blob.digest,
        size_bytes=blob.size_bytes,
        manifest=manifest,
        schema=header.schema,
        delta_norm=math.sqrt(math.fsum(squares)),
    )


def claims_of(file: BinaryIO) -> tuple[UpdateManifest | None, TensorSchema | None]:
    """Return what a rejected file says about itself, as far as it can be read: for the record only."""
    try:
        header = tensors.read_header(file)
    except TensorFileError:
        return None, None
    try:
        return UpdateManifest.model_validate_json(header.manifest_json), header.schema
    except ValidationError:
        return None, header.schema


def _checked_header(file: BinaryIO, schema: TensorSchema) -> TensorHeader:
    try:
        header = tensors.read_header(file)
    except TensorFileError as error:
        raise UpdateRejected(RejectionReason.FILE_MALFORMED, f"not a tensor file: {error}") from error
    try:
        tensors.check_schema(header.schema, schema)
    except TensorFileError as error:
        raise UpdateRejected(
            RejectionReason.SCHEMA_MISMATCH, f"not the federation's tensors: {error}"
        ) from error
    return header


def _checked_manifest(text: str, expected: ExpectedUpdate) -> UpdateManifest:
    try:
        manifest = UpdateManifest.model_validate_json(text)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:5])
        detail = f"manifest: {'; '.join(faults)}"[:_MAX_DETAIL_CHARACTERS]
        raise UpdateRejected(RejectionReason.MANIFEST_INVALID, detail) from error
    for reason, actual, wanted in (
        (RejectionReason.WRONG_FEDERATION, manifest.federation, expected.federation),
        (RejectionReason.WRONG_ROUND, manifest.round_id, expected.round_id),
        (RejectionReason.WRONG_TASK, manifest.task, expected.task),
        (RejectionReason.WRONG_BASE, manifest.base_digest, expected.base_digest),
    ):
        if actual != wanted:
            raise UpdateRejected(
                reason, f"the manifest says {str(actual)!r}; this round's is {str(wanted)!r}"
            )
    return manifest


def _checked_square_sum(file: BinaryIO, header: TensorHeader, name: str, task: RoundTask) -> float:
    """Return the sum of the squares of one tensor's elements, all of them checked."""
    bound = MAX_ABS[task] if task.touches(name) else 0.0
    total = 0.0
    for largest, square_sum in _magnitudes(file, header, name):
        if largest > bound:
            raise _out_of(bound, largest, name, task)
        total += square_sum
    return total


def _magnitudes(file: BinaryIO, header: TensorHeader, name: str) -> Iterator[tuple[float, float]]:
    """Yield, slice by slice, the largest magnitude and the sum of squares."""
    try:
        for elements in tensors.iter_slices(file, header, name, _SLICE_ELEMENTS):
            magnitudes = np.abs(elements, dtype=np.float64)
            yield float(magnitudes.max()), float(np.square(magnitudes).sum())
    except TensorFileError as error:
        raise UpdateRejected(RejectionReason.NOT_FINITE, str(error)) from error


def _out_of(bound: float, largest: float, name: str, task: RoundTask) -> UpdateRejected:
    if bound == 0.0:
        return UpdateRejected(
            RejectionReason.NOT_ZERO, f"tensor {name!r} must be zero in a round of task {task.value!r}"
        )
    return UpdateRejected(
        RejectionReason.OUT_OF_BOUNDS, f"tensor {name!r} reaches {largest:.6g}; allowed: up to {bound:.6g}"
    )
