"""The tensor codec: what it writes is deterministic and readable by others; what it reads is checked first."""

import io
import json
import weakref

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import JsonValue
from safetensors.numpy import load as safetensors_load
from safetensors.numpy import save as safetensors_save

from pfedbayespt.protocol import Message, TensorFileError, tensors


class Note(Message):
    """A manifest."""

    text: str = "a note"


NAMES = st.from_regex(r"[a-z][a-z0-9_.]{0,20}", fullmatch=True)
ARRAYS = st.sampled_from([np.float32, np.float64]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=4, max_side=4),
        elements=hnp.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False),
    )
)
TENSORS = st.dictionaries(NAMES, ARRAYS, min_size=1, max_size=5)


def sample() -> dict[str, tensors.FloatArray]:
    return {
        "head.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "head.bias": np.array([0.5, -0.5], dtype=np.float32),
        "statistics.mean": np.array([1.0, 2.0, 3.0]),
    }


def file_with(entries: object, data: bytes = b"\0" * 8) -> bytes:
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + data


def header_with(**changes: JsonValue) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    return file_with({"__metadata__": {"manifest": "{}"}, "a": entry})


# What it writes


def test_a_small_file_has_exactly_these_bytes() -> None:
    content = tensors.encode({"b": np.float32([1.0]), "a": np.float64(2.0)}, Note(text="é"))
    header = (
        '{"__metadata__":{"manifest":"{\\"text\\":\\"é\\"}"},'
        '"a":{"dtype":"F64","shape":[],"data_offsets":[0,8]},'
        '"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}'
    ).encode()
    header += b" " * (-len(header) % 8)
    data = bytes.fromhex("0000000000000040") + bytes.fromhex("0000803f")
    assert content == len(header).to_bytes(8, "little") + header + data


@given(TENSORS)
def test_what_is_written_is_read_back_bit_for_bit(arrays: dict[str, tensors.FloatArray]) -> None:
    manifest_json, decoded = tensors.decode(tensors.encode(arrays, Note()))
    assert Note.model_validate_json(manifest_json) == Note()
    assert decoded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert decoded[name].shape == array.shape
        assert decoded[name].dtype == array.dtype
        assert decoded[name].tobytes() == array.tobytes()


@given(TENSORS)
def test_the_safetensors_library_reads_our_files_and_we_read_its(
    arrays: dict[str, tensors.FloatArray],
) -> None:
    theirs = safetensors_load(tensors.encode(arrays, Note()))
    _, ours = tensors.decode(safetensors_save(arrays, metadata={"manifest": "{}"}))
    for name, array in arrays.items():
        assert theirs[name].tobytes() == ours[name].tobytes() == array.tobytes()
        assert theirs[name].shape == ours[name].shape == array.shape


@given(TENSORS, st.randoms())
def test_the_bytes_do_not_depend_on_the_order_of_the_mapping(arrays, random) -> None:
    shuffled = list(arrays.items())
    random.shuffle(shuffled)
    assert tensors.encode(dict(shuffled), Note()) == tensors.encode(arrays, Note())


def test_the_bytes_do_not_depend_on_the_memory_layout() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert tensors.encode({"a": array.T}, Note()) == tensors.encode(
        {"a": np.ascontiguousarray(array.T)}, Note()
    )
    assert tensors.encode({"a": array[::2, ::2]}, Note()) == tensors.encode(
        {"a": array[::2, ::2].copy()}, Note()
    )


@given(TENSORS)
def test_header_and_data_in_order_are_the_file(arrays: dict[str, tensors.FloatArray]) -> None:
    schema = tensors.schema_of(arrays)
    data = b"".join(arrays[spec.name].tobytes() for spec in tensors.data_order(schema))
    assert tensors.encode_header(schema, Note()) + data == tensors.encode(arrays, Note())


@given(TENSORS)
def test_every_element_is_aligned(arrays: dict[str, tensors.FloatArray]) -> None:
    header = tensors.read_header(io.BytesIO(tensors.encode(arrays, Note())))
    assert all(header.starts[name] % array.itemsize == 0 for name, array in arrays.items())


@given(TENSORS)
def test_the_schema_of_arrays_is_the_schema_of_their_file(arrays: dict[str, tensors.FloatArray]) -> None:
    header = tensors.read_header(io.BytesIO(tensors.encode(arrays, Note())))
    assert header.schema == tensors.schema_of(arrays)
    assert [spec.name for spec in header.schema] == sorted(arrays)


@pytest.mark.parametrize(
    ("arrays", "complaint"),
    [
        ({}, "at least one tensor"),
        ({"a": np.zeros(2, np.float16)}, "float16; allowed: float32, float64"),
        ({"a": np.zeros(2, np.int64)}, "int64; allowed"),
        ({"a": np.zeros(2, ">f4")}, "allowed: float32, float64"),
        ({"a": np.zeros((2, 0), np.float32)}, "shape.1"),
        ({"a": np.zeros([1] * 9, np.float32)}, "shape"),
        ({"a": np.float32([1.0, np.nan])}, "'a' holds NaN or infinity"),
        ({"a": np.float64([-np.inf])}, "'a' holds NaN or infinity"),
        ({"../a": np.zeros(2)}, "name"),
        ({"__metadata__": np.zeros(2)}, "name"),
        ({"A": np.zeros(2)}, "name"),
        ({"": np.zeros(2)}, "name"),
        ({"a\n": np.zeros(2)}, "name"),
        ({"a" * 129: np.zeros(2)}, "name"),
    ],
)
def test_it_refuses_to_write_what_it_would_not_read(arrays, complaint: str) -> None:
    with pytest.raises(TensorFileError, match=complaint):
        tensors.encode(arrays, Note())


def test_it_refuses_to_write_a_header_longer_than_it_reads() -> None:
    many = {f"tensor{number}": np.zeros(1, np.float32) for number in range(2000)}
    with pytest.raises(TensorFileError, match="allowed: 65536"):
        tensors.encode(many, Note())


# What it reads


def test_the_header_is_read_without_touching_the_tensors() -> None:
    content = tensors.encode(sample(), Note())
    header_end = tensors.read_header(io.BytesIO(content)).starts["statistics.mean"]

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 <= size <= header_end - self.tell()
            return super().read(size)

    assert tensors.read_header(Watched(content)).schema == tensors.schema_of(sample())


def test_every_truncation_and_every_extra_byte_is_refused() -> None:
    content = tensors.encode(sample(), Note())
    for length in range(len(content)):
        with pytest.raises(TensorFileError):
            tensors.decode(content[:length])
    with pytest.raises(TensorFileError, match="the tensors take 56 bytes, but the file has 57"):
        tensors.decode(content + b"\0")


@given(st.binary(max_size=300))
@example(b"")
@example((2).to_bytes(8, "little") + b"{}")
@example((2).to_bytes(8, "little") + b"[]")
@example((2**63).to_bytes(8, "little") + b"{}")
def test_random_bytes_are_refused_and_never_crash_it(content: bytes) -> None:
    with pytest.raises(TensorFileError):
        tensors.decode(content)


@given(st.integers(0, 300), st.integers(0, 255))
def test_one_changed_header_byte_is_refused_or_read_but_never_crashes_it(position: int, value: int) -> None:
    content = bytearray(tensors.encode(sample(), Note()))
    content[position % len(content)] = value
    try:
        tensors.decode(bytes(content), tensors.schema_of(sample()))
    except TensorFileError as error:
        str(error).encode()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(file_with({}), id="empty header"),
        pytest.param(file_with([]), id="not an object"),
        pytest.param(file_with(b"nonsense"), id="not JSON"),
        pytest.param(file_with(b"\xff\xfe{}"), id="not UTF-8"),
        pytest.param(file_with(b"[" * 60_000), id="deeply nested"),
        pytest.param(file_with(b'{"a":' + b"1" * 5000 + b"}"), id="number of 5,000 digits"),
        pytest.param(file_with(b'{"a":1,"a":1}'), id="repeated name"),
        pytest.param(file_with(b" " * 70_000), id="header too long"),
        pytest.param(file_with({"__metadata__": {"manifest": "{}"}}, b""), id="no tensors"),
        pytest.param(file_with({"__metadata__": {}, "a": {}}), id="no manifest"),
        pytest.param(file_with({"__metadata__": {"manifest": {}}}), id="manifest not text"),
        pytest.param(file_with({"__metadata__": {"manifest": "{}", "more": ""}}), id="more metadata"),
        pytest.param(file_with({"__metadata__": {"manifest": "\ud800"}}), id="manifest not Unicode"),
        pytest.param(file_with({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), id="none"),
        pytest.param(header_with(more=1), id="unknown key"),
        pytest.param(header_with(dtype="I64"), id="integers"),
        pytest.param(header_with(dtype="BF16"), id="bfloat16"),
        pytest.param(header_with(dtype=["F32"]), id="dtype not text"),
        pytest.param(header_with(dtype="F64"), id="dtype against offsets"),
        pytest.param(header_with(shape=[2.0]), id="fractional length"),
        pytest.param(header_with(shape=["2"]), id="length as text"),
        pytest.param(header_with(shape=[True, 2]), id="truth as length"),
        pytest.param(header_with(shape=[-2, -1]), id="negative lengths"),
        pytest.param(header_with(shape=[2, 0]), id="empty tensor"),
        pytest.param(header_with(shape=[2**41]), id="gigantic length"),
        pytest.param(header_with(shape=[2**40] * 8), id="gigantic product"),
        pytest.param(header_with(shape=2), id="shape not a list"),
        pytest.param(header_with(shape=None), id="no shape"),
        pytest.param(header_with(data_offsets=[0, 4]), id="too few bytes"),
        pytest.param(header_with(data_offsets=[8, 16]), id="outside"),
        pytest.param(header_with(data_offsets=[-8, 0]), id="negative offset"),
        pytest.param(header_with(data_offsets=[0.0, 8.0]), id="fractional offsets"),
        pytest.param(header_with(data_offsets=[False, 8]), id="truth as offset"),
        pytest.param(header_with(data_offsets=[0, 8, 16]), id="three offsets"),
        pytest.param(header_with(data_offsets="\ud800"), id="offsets not Unicode"),
        pytest.param(header_with(data_offsets="x" * 10_000), id="long offsets"),
    ],
)
def test_a_malformed_header_is_refused_with_a_short_message(content: bytes) -> None:
    with pytest.raises(TensorFileError) as refusal:
        tensors.read_header(io.BytesIO(content))
    assert 0 < len(str(refusal.value).encode()) < 400


@pytest.mark.parametrize("spans", [[(0, 4), (0, 4)], [(0, 4), (5, 9)], [(4, 8), (8, 12)], [(0, 4), (2, 6)]])
def test_overlaps_and_gaps_are_refused(spans) -> None:
    entries = {
        f"t{number}": {"dtype": "F32", "shape": [1], "data_offsets": list(span)}
        for number, span in enumerate(spans)
    }
    content = file_with({"__metadata__": {"manifest": "{}"}} | entries, b"\0" * max(map(max, spans)))
    with pytest.raises(TensorFileError, match="expected"):
        tensors.read_header(io.BytesIO(content))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["head.bias", "statistics.mean"])
def test_a_number_that_is_not_finite_is_refused(name: str, value: float) -> None:
    arrays = sample()
    arrays[name][-1] = value
    content = safetensors_save(arrays, metadata={"manifest": "{}"})
    with pytest.raises(TensorFileError, match=f"{name}' holds NaN or infinity"):
        tensors.decode(content)


def test_another_schema_is_refused_naming_every_fault() -> None:
    expected = tensors.schema_of(sample())
    actual = sample() | {"extra": np.zeros(1, np.float32), "head.weight": np.zeros((3, 2), np.float32)}
    actual["statistics.mean"] = actual["statistics.mean"].astype(np.float32)
    del actual["head.bias"]
    with pytest.raises(TensorFileError) as refusal:
        tensors.decode(tensors.encode(actual, Note()), expected)
    for fault in (
        "missing tensor 'head.bias'",
        "unexpected tensor 'extra'",
        "'head.weight' is F32[3, 2], expected F32[2, 3]",
        "'statistics.mean' is F32[3], expected F64[3]",
    ):
        assert fault in str(refusal.value)


def test_the_expected_schema_is_accepted() -> None:
    expected = tensors.schema_of(sample())
    tensors.check_schema(expected, expected)
    _, decoded = tensors.decode(tensors.encode(sample(), Note()), expected)
    assert decoded.keys() == sample().keys()


@given(TENSORS, st.integers(1, 300))
def test_slices_join_to_the_tensor_and_none_is_longer_than_asked(arrays, max_elements: int) -> None:
    file = io.BytesIO(tensors.encode(arrays, Note()))
    header = tensors.read_header(file)
    for name, array in arrays.items():
        slices = list(tensors.iter_slices(file, header, name, max_elements))
        assert max(map(len, slices)) <= max_elements
        assert np.concatenate(slices).tobytes() == array.tobytes()


def test_slices_of_several_tensors_may_be_read_in_turn() -> None:
    file = io.BytesIO(tensors.encode(sample(), Note()))
    header = tensors.read_header(file)
    pairs = zip(
        tensors.iter_slices(file, header, "head.weight", 3),
        tensors.iter_slices(file, header, "head.bias", 1),
        strict=True,
    )
    assert [(list(left), list(right)) for left, right in pairs] == [([0, 1, 2], [0.5]), ([3, 4, 5], [-0.5])]


def test_a_waiting_iterator_does_not_hold_on_to_its_last_slice() -> None:
    # An aggregation waits on one iterator per site, and must not keep a slice of each.
    file = io.BytesIO(tensors.encode(sample(), Note()))
    slices = tensors.iter_slices(file, tensors.read_header(file), "head.weight", 3)
    first = weakref.ref(next(slices))
    assert first() is None
    assert list(next(slices)) == [3, 4, 5]


def test_an_unknown_tensor_is_a_key_error() -> None:
    file = io.BytesIO(tensors.encode(sample(), Note()))
    header = tensors.read_header(file)
    assert header.spec("head.bias").num_elements == 2
    with pytest.raises(KeyError, match=r"head\.scale"):
        next(tensors.iter_slices(file, header, "head.scale", 10))


def test_a_file_that_shrinks_while_it_is_read_is_refused() -> None:
    content = tensors.encode(sample(), Note())
    header = tensors.read_header(io.BytesIO(content))
    with pytest.raises(TensorFileError, match="ends 4 bytes early"):
        list(tensors.iter_slices(io.BytesIO(content[:-4]), header, "head.weight", 100))
