"""Updates: one that is right passes whole; one that is wrong in one place is refused with the reason for it."""

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from pfedbayespt.protocol import RoundTask, TensorSpec, UpdateManifest, tensors
from pfedbayespt.server.blobs import MemoryBlobStore, TemporaryBlob
from pfedbayespt.server.errors import DigestMismatch, UpdateRejected
from pfedbayespt.server.updates.ingest import (
    MAX_ABS,
    ExpectedUpdate,
    ReceivedUpdate,
    RejectionReason,
    check_update,
    claims_of,
    receive_update,
)
from pfedbayespt.server.uploads import AnnouncedBody

BASE = "sha256:" + "b" * 64
MANIFEST = UpdateManifest(
    federation="clinics",
    round_id="rnd_1",
    task=RoundTask.TRAINING,
    base_digest=BASE,
    num_examples=128,
    metrics={"loss": 0.5},
)
Arrays = dict[str, tensors.FloatArray]


def delta() -> Arrays:
    return {
        "head.bias": np.float32([3.0, -4.0]),
        "head.weight": np.zeros((2, 3), np.float32),
        "statistics.features.mean": np.zeros(3),
    }


EXPECTED = ExpectedUpdate(
    federation="clinics",
    round_id="rnd_1",
    task=RoundTask.TRAINING,
    base_digest=BASE,
    schema=tensors.schema_of(delta()),
)


def file_of(arrays: Arrays, manifest_json: str | None = None) -> bytes:
    """A file as a careless or hostile client may write it: nothing is checked."""
    manifest_json = MANIFEST.model_dump_json() if manifest_json is None else manifest_json
    return save(arrays, metadata={"manifest": manifest_json})


def check(content: bytes, expected: ExpectedUpdate = EXPECTED) -> ReceivedUpdate:
    with MemoryBlobStore().create() as blob:
        blob.write(content)
        return check_update(blob, expected)


def refusal_of(content: bytes, expected: ExpectedUpdate = EXPECTED) -> UpdateRejected:
    with pytest.raises(UpdateRejected) as refusal:
        check(content, expected)
    assert refusal.value.reason in set(RejectionReason)
    assert 0 < len(refusal.value.detail.encode()) < 2000
    return refusal.value


# What is right


def test_a_right_update_passes_with_its_digest_manifest_and_norm() -> None:
    content = tensors.encode(delta(), MANIFEST)
    received = check(content)
    assert received.digest == "sha256:" + hashlib.sha256(content).hexdigest()
    assert received.size_bytes == len(content)
    assert received.manifest == MANIFEST
    assert received.schema == EXPECTED.schema
    assert received.delta_norm == 5.0


def test_a_right_body_is_received() -> None:
    content = tensors.encode(delta(), MANIFEST)

    async def body() -> AsyncIterator[bytes]:
        yield content[:100]
        yield content[100:]

    with MemoryBlobStore().create() as blob:
        announced = AnnouncedBody(len(content), "sha256:" + hashlib.sha256(content).hexdigest())
        received = asyncio.run(receive_update(body(), blob, announced, EXPECTED))
        assert received.blob is blob
        assert (received.digest, received.manifest) == (announced.digest, MANIFEST)


def test_a_body_of_another_digest_is_not_even_looked_into() -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b"nonsense"

    with MemoryBlobStore().create() as blob, pytest.raises(DigestMismatch):
        asyncio.run(receive_update(body(), blob, AnnouncedBody(8, BASE), EXPECTED))


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=2), st.integers(0, 200_000))
def test_the_norm_is_taken_over_all_elements(bias: list[float], length: int) -> None:
    arrays = {"head.bias": np.float32(bias), "head.weight": np.full(length + 1, 0.5, np.float32)}
    expected = ExpectedUpdate("clinics", "rnd_1", RoundTask.TRAINING, BASE, tensors.schema_of(arrays))
    flat = np.concatenate([array.astype(np.float64) for array in arrays.values()])
    assert check(file_of(arrays), expected).delta_norm == pytest.approx(np.linalg.norm(flat), rel=1e-12)


def test_a_statistics_update_carries_statistics_and_nothing_else() -> None:
    arrays = delta() | {"head.bias": np.zeros(2, np.float32), "statistics.features.mean": np.full(3, 1e8)}
    manifest = MANIFEST.model_copy(update={"task": RoundTask.STATISTICS})
    expected = ExpectedUpdate("clinics", "rnd_1", RoundTask.STATISTICS, BASE, EXPECTED.schema)
    assert check(tensors.encode(arrays, manifest), expected).manifest.task is RoundTask.STATISTICS
    arrays["head.bias"][0] = 1e-30
    assert refusal_of(tensors.encode(arrays, manifest), expected).reason == RejectionReason.NOT_ZERO


@pytest.mark.parametrize("value", [MAX_ABS[RoundTask.TRAINING], -MAX_ABS[RoundTask.TRAINING]])
def test_a_number_on_the_bound_passes(value: float) -> None:
    assert check(file_of(delta() | {"head.bias": np.float32([value, 0.0])})).delta_norm == abs(value)


def test_negative_zero_is_zero() -> None:
    assert check(file_of(delta() | {"statistics.features.mean": np.full(3, -0.0)})).delta_norm == 5.0


# What is wrong


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"federation": "rivals"}, RejectionReason.WRONG_FEDERATION),
        ({"round_id": "rnd_2"}, RejectionReason.WRONG_ROUND),
        ({"task": "statistics"}, RejectionReason.WRONG_TASK),
        ({"base_digest": "sha256:" + "c" * 64}, RejectionReason.WRONG_BASE),
        ({"format": "pfedbayespt.update/2"}, RejectionReason.MANIFEST_INVALID),
        ({"num_examples": 0}, RejectionReason.MANIFEST_INVALID),
        ({"num_examples": -5}, RejectionReason.MANIFEST_INVALID),
        ({"num_examples": 2**63}, RejectionReason.MANIFEST_INVALID),
        ({"num_examples": float("nan")}, RejectionReason.MANIFEST_INVALID),
        ({"num_examples": "all"}, RejectionReason.MANIFEST_INVALID),
        ({"num_examples": None}, RejectionReason.MANIFEST_INVALID),
        ({"metrics": {"loss": float("inf")}}, RejectionReason.MANIFEST_INVALID),
        ({"metrics": {"x" * 10_000: 1.0}}, RejectionReason.MANIFEST_INVALID),
        ({"metrics": {f"m{number}": 1.0 for number in range(33)}}, RejectionReason.MANIFEST_INVALID),
        ({"task": "gossip"}, RejectionReason.MANIFEST_INVALID),
        ({"base_digest": "b" * 64}, RejectionReason.MANIFEST_INVALID),
        ({"federation": "../clinics"}, RejectionReason.MANIFEST_INVALID),
        ({"federation": "\ud800"}, RejectionReason.MANIFEST_INVALID),
        ({"weight": 1000.0}, RejectionReason.MANIFEST_INVALID),
    ],
)
def test_a_manifest_wrong_in_one_field_is_refused_for_that(
    change: dict[str, Any], reason: RejectionReason
) -> None:
    text = json.dumps(MANIFEST.model_dump(mode="json") | change)
    assert refusal_of(file_of(delta(), text)).reason == reason


@pytest.mark.parametrize("field", ["federation", "round_id", "task", "base_digest", "num_examples"])
def test_a_manifest_that_lacks_a_field_is_refused_naming_it(field: str) -> None:
    fields = MANIFEST.model_dump(mode="json")
    del fields[field]
    refusal = refusal_of(file_of(delta(), json.dumps(fields)))
    assert refusal.reason == RejectionReason.MANIFEST_INVALID
    assert f"{field}: Field required" in refusal.detail


@pytest.mark.parametrize("text", ["", "null", "[]", "nonsense", "{", '"{}"', "[" * 10_000])
def test_a_manifest_that_is_no_object_is_refused(text: str) -> None:
    assert refusal_of(file_of(delta(), text)).reason == RejectionReason.MANIFEST_INVALID


def reshaped(arrays: Arrays) -> None:
    arrays["head.weight"] = arrays["head.weight"].reshape(3, 2)


def retyped(arrays: Arrays) -> None:
    arrays["head.weight"] = arrays["head.weight"].astype(np.float64)


def renamed(arrays: Arrays) -> None:
    arrays["head.scale"] = arrays.pop("head.bias")


def lacking(arrays: Arrays) -> None:
    del arrays["head.bias"]


def extended(arrays: Arrays) -> None:
    arrays["backbone.weight"] = np.zeros(1, np.float32)


@pytest.mark.parametrize("mutate", [reshaped, retyped, renamed, lacking, extended])
def test_another_schema_is_refused(mutate: Callable[[Arrays], None]) -> None:
    arrays = delta()
    mutate(arrays)
    assert refusal_of(file_of(arrays)).reason == RejectionReason.SCHEMA_MISMATCH


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A", "a" * 200, "\u0000"])
def test_a_name_outside_its_form_is_refused(name: str) -> None:
    assert (
        refusal_of(file_of(delta() | {name: np.zeros(1, np.float32)})).reason
        == RejectionReason.FILE_MALFORMED
    )


@pytest.mark.parametrize("kind", [np.float16, np.int32, np.uint8, np.bool_])
def test_a_type_outside_the_codec_is_refused(kind: type[np.generic]) -> None:
    content = file_of(delta() | {"head.bias": np.zeros(2, kind)})
    assert refusal_of(content).reason == RejectionReason.FILE_MALFORMED


@pytest.mark.parametrize("content", [b"", b"x", b"nonsense" * 100, b"PK\x03\x04", b"\x80\x04\x95pickle" * 9])
def test_what_is_no_tensor_file_is_refused(content: bytes) -> None:
    assert refusal_of(content).reason == RejectionReason.FILE_MALFORMED


def test_a_truncated_file_and_one_with_a_tail_are_refused() -> None:
    content = file_of(delta())
    for wrong in (content[:-1], content[: len(content) // 2], content + b"\0"):
        assert refusal_of(wrong).reason == RejectionReason.FILE_MALFORMED


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", sorted(delta()))
def test_a_number_that_is_not_finite_is_refused_wherever_it_is(name: str, value: float) -> None:
    arrays = delta()
    arrays[name].flat[-1] = value
    refusal = refusal_of(file_of(arrays))
    assert refusal.reason == RejectionReason.NOT_FINITE
    assert name in refusal.detail


@pytest.mark.parametrize("value", [1.0001e6, -3e38])
def test_a_number_out_of_bounds_is_refused(value: float) -> None:
    refusal = refusal_of(file_of(delta() | {"head.bias": np.float32([0.0, value])}))
    assert refusal.reason == RejectionReason.OUT_OF_BOUNDS
    assert "'head.bias'" in refusal.detail
    assert "up to 1e+06" in refusal.detail


def test_statistics_in_a_training_round_are_refused() -> None:
    refusal = refusal_of(file_of(delta() | {"statistics.features.mean": np.float64([0.0, 0.0, 1e-300])}))
    assert refusal.reason == RejectionReason.NOT_ZERO
    assert "'statistics.features.mean' must be zero in a round of task 'training'" in refusal.detail


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_one_changed_byte_is_refused_or_changes_only_a_number(position: int, value: int) -> None:
    original = file_of(delta())
    mutant = bytearray(original)
    mutant[position % len(mutant)] = value
    try:
        received = check(bytes(mutant))
    except UpdateRejected:
        return
    assert received.schema == EXPECTED.schema
    assert received.manifest.base_digest == BASE


# In what order, and at what cost


class Watched(io.BytesIO):
    """A file that remembers how far it was read."""

    furthest = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.furthest = max(self.furthest, self.tell())
        return content


def test_no_tensor_is_read_before_schema_and_manifest_are_right() -> None:
    data_bytes = sum(array.nbytes for array in delta().values())
    wrong_round = json.dumps(MANIFEST.model_dump(mode="json") | {"round_id": "rnd_2"})
    wrong_name = delta()
    renamed(wrong_name)
    for content in (file_of(wrong_name), file_of(delta(), wrong_round)):
        file = Watched(content)
        with pytest.raises(UpdateRejected):
            check_update(TemporaryBlob(file), EXPECTED)
        assert file.furthest == len(content) - data_bytes


def test_a_large_tensor_is_checked_in_small_pieces() -> None:
    arrays: Arrays = {"head.weight": np.zeros(1_000_000, np.float32)}
    expected = ExpectedUpdate(
        "clinics",
        "rnd_1",
        RoundTask.TRAINING,
        BASE,
        (TensorSpec(name="head.weight", dtype="F32", shape=(10**6,)),),
    )
    sizes: list[int] = []

    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            sizes.append(size or 0)
            return super().read(size)

    content = file_of(arrays)
    blob = TemporaryBlob(Counting())
    blob.write(content)
    check_update(blob, expected)
    assert sum(sizes) == len(content)
    assert max(sizes) <= 2**20


# What is recorded of a rejected one


def test_the_claims_of_a_rejected_update_are_read_as_far_as_possible() -> None:
    arrays = delta() | {"head.bias": np.float32([np.nan, 0.0])}
    assert claims_of(io.BytesIO(file_of(arrays))) == (MANIFEST, EXPECTED.schema)
    assert claims_of(io.BytesIO(file_of(arrays, "nonsense"))) == (None, EXPECTED.schema)
    assert claims_of(io.BytesIO(b"nonsense")) == (None, None)
