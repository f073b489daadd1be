"""The one tensor codec: named float arrays and a manifest <-> one safetensors file.

Rules:
1. Encoding is deterministic: equal tensors and manifest give equal bytes, in every release of every library,
   so a digest names a value. Any safetensors reader reads the file.
2. Nothing is trusted before it is checked: first the length of the header, then the header's form, then its
   schema against the expected one, and only then are tensors read. No pickle, ever.
3. The header holds one metadata entry, `manifest`, a JSON document that can be read without the tensors.
4. Tensors tile the data section exactly: no gaps, no overlaps, no trailing bytes, no empty tensors.
5. Wide types lie first and names in order, so that every element is aligned (`data_order`).
"""

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Annotated, Any, BinaryIO, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from pfedbayespt.protocol._base import Message, canonical_json

Dtype = Literal["F32", "F64"]
# Strict, or `true`, "2" and 2.0 would pass for lengths; bounded, or a product could grow without end.
Length = Annotated[int, Field(ge=1, le=2**40, strict=True)]
FloatArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]

MAX_HEADER_BYTES = 64 * 1024
_LENGTH_BYTES = 8
_MANIFEST_KEY = "manifest"
_NUMPY_TYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}


class TensorFileError(ValueError):
    """The file is not one that this codec wrote; the message says what is wrong and what is allowed."""


class TensorSpec(Message):
    """Name, element type and shape of one tensor."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_.]{0,127}$")
    dtype: Dtype
    shape: tuple[Length, ...] = Field(max_length=8)

    @property
    def num_elements(self) -> int:
        """Product of the shape; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes of the data."""
        return self.num_elements * _NUMPY_TYPES[self.dtype].itemsize


TensorSchema = tuple[TensorSpec, ...]
"""The tensors of a file, sorted by name."""


@dataclass(frozen=True)
class TensorHeader:
    """What a file's header says: the schema, the manifest's JSON text, and where each tensor starts."""

    schema: TensorSchema
    manifest_json: str
    starts: Mapping[str, int]
    size_bytes: int

    def spec(self, name: str) -> TensorSpec:
        """Return the tensor's specification; KeyError if the file has none of this name."""
        if name not in self.starts:
            raise KeyError(name)
        return next(spec for spec in self.schema if spec.name == name)


def encode(tensors: Mapping[str, FloatArray], manifest: Message) -> bytes:
    """Return the file that holds `tensors` (float32 or float64, any shape) and `manifest`.

    Raises:
        TensorFileError: a name, type or value is one that the codec would not read back.
    """
    schema = schema_of(tensors)
    for spec in schema:
        _check_finite(spec.name, tensors[spec.name])
    data = (np.asarray(tensors[spec.name]).tobytes() for spec in data_order(schema))
    return encode_header(schema, manifest) + b"".join(data)


def encode_header(schema: TensorSchema, manifest: Message) -> bytes:
    """Return everything that `encode` puts before the data, which must follow in `data_order(schema)`.

    Raises:
        TensorFileError: the header would be longer than a reader accepts, or `schema` is empty.
    """
    if not schema:
        raise TensorFileError("a file must hold at least one tensor")
    entries: dict[str, Any] = {"__metadata__": {_MANIFEST_KEY: canonical_json(manifest).decode()}}
    start = 0
    for spec in data_order(schema):
        offsets = [start, start := start + spec.size_bytes]
        entries[spec.name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    if len(text) > MAX_HEADER_BYTES:
        raise TensorFileError(f"the header would be {len(text)} bytes; allowed: {MAX_HEADER_BYTES}")
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def data_order(schema: TensorSchema) -> TensorSchema:
    """Return the tensors in the order in which `encode` lays their data out."""
    return tuple(sorted(schema, key=lambda spec: (-_NUMPY_TYPES[spec.dtype].itemsize, spec.name)))


def decode(content: bytes, expected: TensorSchema | None = None) -> tuple[str, dict[str, FloatArray]]:
    """Return the manifest's JSON text and the tensors of a file, after every check of this module.

    Raises:
        TensorFileError: the file breaks a rule, differs from `expected`, or holds a number that is not finite.
    """
    file = io.BytesIO(content)
    header = read_header(file)
    if expected is not None:
        check_schema(header.schema, expected)
    tensors = {spec.name: _read_tensor(file, header, spec) for spec in header.schema}
    return header.manifest_json, tensors


def schema_of(tensors: Mapping[str, FloatArray]) -> TensorSchema:
    """Return the schema that a file of `tensors` has.

    Raises:
        TensorFileError: a name, type or shape is not allowed.
    """
    return tuple(_spec_of(name, array) for name, array in sorted(tensors.items()))


def read_header(file: BinaryIO) -> TensorHeader:
    """Read and check the header of a seekable file; the tensors are not touched.

    Raises:
        TensorFileError: the file breaks a rule of this module.
    """
    size_bytes = file.seek(0, io.SEEK_END)
    header_bytes = _read_header_bytes(file, size_bytes)
    entries = _parse_header(header_bytes)
    manifest_json = _manifest_of(entries.pop("__metadata__", None))
    spans = {name: _parse_entry(name, entry) for name, entry in entries.items()}
    data_start = _LENGTH_BYTES + len(header_bytes)
    _check_tiling(spans, size_bytes - data_start)
    return TensorHeader(
        schema=tuple(spec for _, (spec, _) in sorted(spans.items())),
        manifest_json=manifest_json,
        starts={name: data_start + start for name, (_, start) in spans.items()},
        size_bytes=size_bytes,
    )


def check_schema(actual: TensorSchema, expected: TensorSchema) -> None:
    """Return if the two are equal.

    Raises:
        TensorFileError: names every tensor that is missing, unexpected or of another type or shape.
    """
    mine, theirs = ({spec.name: spec for spec in schema} for schema in (expected, actual))
    faults = [f"missing tensor {name!r}" for name in sorted(mine.keys() - theirs.keys())]
    faults += [f"unexpected tensor {name!r}" for name in sorted(theirs.keys() - mine.keys())]
    faults += [
        f"tensor {name!r} is {_describe(theirs[name])}, expected {_describe(mine[name])}"
        for name in sorted(mine.keys() & theirs.keys())
        if mine[name] != theirs[name]
    ]
    if faults:
        raise TensorFileError("; ".join(faults[:10]))


def iter_slices(file: BinaryIO, header: TensorHeader, name: str, max_elements: int) -> Iterator[FloatArray]:
    """Yield the elements of one tensor, flat, at most `max_elements` at a time: constant memory.

    Raises:
        TensorFileError: the data holds NaN or infinity, or ends early.
    """
    spec = header.spec(name)
    for indices in slices(spec.num_elements, max_elements):
        # Nothing is kept in a variable here: a waiting iterator must not hold on to its last slice.
        yield read_slice(file, header, spec, indices)


def slices(num_elements: int, max_elements: int) -> Iterator[range]:
    """Yield the indices 0 ... num_elements - 1 in order, at most `max_elements` at a time."""
    for first in range(0, num_elements, max_elements):
        yield range(first, min(first + max_elements, num_elements))


def read_slice(file: BinaryIO, header: TensorHeader, spec: TensorSpec, indices: range) -> FloatArray:
    """Return those elements of the flat tensor `spec`, which must be one of the file's.

    Raises:
        TensorFileError: the data holds NaN or infinity, or ends early.
    """
    dtype = _NUMPY_TYPES[spec.dtype]
    file.seek(header.starts[spec.name] + indices.start * dtype.itemsize)
    elements: FloatArray = np.frombuffer(_read_exactly(file, len(indices) * dtype.itemsize), dtype=dtype)
    _check_finite(spec.name, elements)
    return elements


def _spec_of(name: str, array: FloatArray) -> TensorSpec:
    names = {dtype: name for name, dtype in _NUMPY_TYPES.items()}
    if array.dtype not in names:
        raise TensorFileError(f"tensor {brief(name)} is {array.dtype}; allowed: float32, float64")
    return _checked_spec(name, names[array.dtype], array.shape)


def _checked_spec(name: str, dtype: object, shape: object) -> TensorSpec:
    try:
        return TensorSpec.model_validate({"name": name, "dtype": dtype, "shape": shape})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise TensorFileError(f"tensor {brief(name)}: {where}: {fault['msg']}") from error


def _check_finite(name: str, elements: FloatArray) -> None:
    if not np.isfinite(elements).all():
        raise TensorFileError(f"tensor {name!r} holds NaN or infinity; allowed: finite numbers")


def _read_tensor(file: BinaryIO, header: TensorHeader, spec: TensorSpec) -> FloatArray:
    (elements,) = iter_slices(file, header, spec.name, spec.num_elements)
    return elements.reshape(spec.shape).copy()


def _read_exactly(file: BinaryIO, num_bytes: int) -> bytes:
    content = file.read(num_bytes)
    if len(content) != num_bytes:
        raise TensorFileError(f"the file ends {num_bytes - len(content)} bytes early")
    return content


def _read_header_bytes(file: BinaryIO, size_bytes: int) -> bytes:
    file.seek(0)
    length = int.from_bytes(_read_exactly(file, _LENGTH_BYTES), "little")
    if not 2 <= length <= MAX_HEADER_BYTES:
        raise TensorFileError(f"the header is {length} bytes; allowed: 2 to {MAX_HEADER_BYTES}")
    if _LENGTH_BYTES + length > size_bytes:
        raise TensorFileError(f"the header is {length} bytes, but the file only {size_bytes}")
    return _read_exactly(file, length)


def _parse_header(header_bytes: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(header_bytes.decode("utf-8"), object_pairs_hook=_refuse_repeats)
    except TensorFileError:
        raise
    except (ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, or absurdly long numbers
        raise TensorFileError(f"the header is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise TensorFileError("the header is not a JSON object")
    return entries


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise TensorFileError("the header names a key twice")
    return entries


def _manifest_of(metadata: object) -> str:
    if not isinstance(metadata, dict) or set(metadata) != {_MANIFEST_KEY}:
        raise TensorFileError(f"the header's metadata must hold exactly one entry, {_MANIFEST_KEY!r}")
    manifest = metadata[_MANIFEST_KEY]
    if not isinstance(manifest, str):
        raise TensorFileError(f"the metadata entry {_MANIFEST_KEY!r} must be a string of JSON")
    if any("\ud800" <= character <= "\udfff" for character in manifest):
        raise TensorFileError(f"the metadata entry {_MANIFEST_KEY!r} holds half a surrogate pair, not text")
    return manifest


def _parse_entry(name: str, entry: object) -> tuple[TensorSpec, int]:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise TensorFileError(f"tensor {brief(name)} must have exactly dtype, shape and data_offsets")
    if entry["dtype"] not in get_args(Dtype):
        raise TensorFileError(
            f"tensor {brief(name)} has dtype {brief(entry['dtype'])}; allowed: {get_args(Dtype)}"
        )
    spec = _checked_spec(name, entry["dtype"], entry["shape"])
    return spec, _checked_start(spec, entry["data_offsets"])


def _checked_start(spec: TensorSpec, offsets: object) -> int:
    match offsets:
        case [int(start), int(end)] if bool not in map(type, offsets):
            if start >= 0 and end - start == spec.size_bytes:
                return start
    raise TensorFileError(
        f"tensor {spec.name!r} has offsets {brief(offsets)}; its data are {spec.size_bytes} bytes"
    )


def _check_tiling(spans: Mapping[str, tuple[TensorSpec, int]], data_bytes: int) -> None:
    if not spans:
        raise TensorFileError("the file holds no tensors")
    position = 0
    for spec, start in sorted(spans.values(), key=lambda span: span[1]):
        if start != position:
            raise TensorFileError(f"tensor {spec.name!r} starts at byte {start}, expected {position}")
        position += spec.size_bytes
    if position != data_bytes:
        raise TensorFileError(f"the tensors take {position} bytes, but the file has {data_bytes} for them")


def _describe(spec: TensorSpec) -> str:
    return f"{spec.dtype}{list(spec.shape)}"
