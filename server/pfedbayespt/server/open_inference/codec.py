"""Requests and answers of the protocol, in JSON and by the binary tensor extension.

With the header `Inference-Header-Content-Length: k` the first k bytes of a body are JSON and the rest are the
tensors whose `parameters.binary_data_size` says how much of it they take, one after the other. Numbers are
little-endian and in row-major order; each element of a BYTES tensor is preceded by its length, a uint32.
"""

import base64
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from pfedbayespt.protocol import Prediction, PredictionOptions
from pfedbayespt.server.errors import InvalidRequest, NotFound
from pfedbayespt.server.open_inference.messages import InferInput, InferRequest, InferResponse, OutputTensor

LENGTH_HEADER: Final = "Inference-Header-Content-Length"
INPUT: Final = "image"
DEFAULT_OUTPUTS: Final = (
    "label",
    "probabilities",
    "total_entropy",
    "aleatoric_entropy",
    "epistemic_entropy",
)
OUTPUTS: Final = (*DEFAULT_OUTPUTS, "classes")
_OPTIONS: Final = ("num_samples", "seed")
_PREFIX: Final = struct.Struct("<I")


@dataclass(frozen=True)
class Asked:
    """A request, read: the images and how to answer them."""

    message: InferRequest
    images: tuple[bytes, ...]
    options: PredictionOptions


@dataclass(frozen=True)
class Tensor:
    """An output: strings (BYTES) or numbers (FP32)."""

    name: str
    values: "Sequence[str] | np.ndarray[Any, np.dtype[np.float32]]"

    @property
    def datatype(self) -> str:
        """The protocol's name of the element type."""
        return "FP32" if isinstance(self.values, np.ndarray) else "BYTES"

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.values.shape if isinstance(self.values, np.ndarray) else (len(self.values),)

    def to_list(self) -> list[Any]:
        """Return the elements, flat."""
        return self.values.ravel().tolist() if isinstance(self.values, np.ndarray) else list(self.values)

    def to_bytes(self) -> bytes:
        """Return the elements as the binary extension has them."""
        if isinstance(self.values, np.ndarray):
            return self.values.astype("<f4").tobytes()
        return b"".join(_PREFIX.pack(len(text)) + text for text in (value.encode() for value in self.values))


def read(body: bytes, json_length: int | None, max_images: int) -> Asked:
    """Return what a body asks for; `json_length` is the header's number, None: the whole body is JSON.

    Raises:
        InvalidRequest: it is malformed, or asks for what there is not.
    """
    length = len(body) if json_length is None else json_length
    if not 0 < length <= len(body):
        raise InvalidRequest(f"{LENGTH_HEADER} is {length}; the body has {len(body)} bytes")
    try:
        message = InferRequest.model_validate_json(body[:length])
        given = {name: message.parameters[name] for name in _OPTIONS if name in message.parameters}
        options = PredictionOptions.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise InvalidRequest(f"{'.'.join(map(str, fault['loc'])) or 'body'}: {fault['msg']}") from error
    unknown = [output.name for output in message.outputs if output.name not in OUTPUTS]
    if unknown:
        raise InvalidRequest(f"there are no outputs {unknown}; allowed: {', '.join(OUTPUTS)}")
    return Asked(message, _images(message.inputs, body[length:], max_images), options)


def write(asked: Asked, tensors: Sequence[Tensor], model: str, version: str) -> tuple[bytes, int | None]:
    """Return the body of the answer and, if tensors follow in binary, the length of its JSON."""
    by_name = {tensor.name: tensor for tensor in tensors}
    chosen = {output.name: output.parameters for output in asked.message.outputs} or {
        name: {} for name in DEFAULT_OUTPUTS
    }
    everything_binary = bool(asked.message.parameters.get("binary_data_output", False))
    described, binary = [], []
    for name, parameters in chosen.items():
        tensor = by_name[name]
        facts = {"name": name, "datatype": tensor.datatype, "shape": tensor.shape}
        if parameters.get("binary_data", everything_binary):
            binary.append(tensor.to_bytes())
            described.append(OutputTensor(**facts, parameters={"binary_data_size": len(binary[-1])}))
        else:
            described.append(OutputTensor(**facts, data=tensor.to_list()))
    answer = InferResponse(
        id=asked.message.id, model_name=model, model_version=version, outputs=tuple(described)
    )
    head = answer.model_dump_json(exclude_none=True).encode()
    return b"".join([head, *binary]), len(head) if binary else None


def tensors_of(predictions: Sequence[Prediction], classes: Sequence[str]) -> list[Tensor]:
    """Return every output for the predictions, which hold all classes."""
    shares = [{entry.label: entry.probability for entry in answer.probabilities} for answer in predictions]
    doubts = [answer.uncertainty for answer in predictions]
    numbers = {
        "probabilities": [[row[name] for name in classes] for row in shares],
        "total_entropy": [doubt.total_entropy_nats for doubt in doubts],
        "aleatoric_entropy": [doubt.aleatoric_entropy_nats for doubt in doubts],
        "epistemic_entropy": [doubt.epistemic_entropy_nats for doubt in doubts],
    }
    return [
        Tensor("label", [answer.label for answer in predictions]),
        *(Tensor(name, np.array(values, np.float32)) for name, values in numbers.items()),
        Tensor("classes", list(classes)),
    ]


def version_number(text: str) -> int:
    """Return the number of a version that a path names.

    Raises:
        NotFound: it is no number, so there is no such version.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise NotFound(f"there is no model version {text!r}")
    return int(text)


def _images(inputs: Sequence[InferInput], tail: bytes, max_images: int) -> tuple[bytes, ...]:
    if len(inputs) != 1 or inputs[0].name != INPUT or inputs[0].datatype != "BYTES":
        raise InvalidRequest(
            f"send one input, named {INPUT!r}, of datatype BYTES: one image file per element"
        )
    (only,) = inputs
    size = only.parameters.get("binary_data_size")
    if size is None:
        images = tuple(_from_json(only.data or []))
    elif size == len(tail):
        images = tuple(_elements(tail))
    else:
        raise InvalidRequest(f"binary_data_size of {INPUT!r} is {size!r}; {len(tail)} bytes follow the JSON")
    if not 1 <= len(images) <= max_images:
        raise InvalidRequest(f"{INPUT!r} has {len(images)} elements; allowed: 1 to {max_images}")
    if math.prod(only.shape) != len(images):
        raise InvalidRequest(f"{INPUT!r} has shape {list(only.shape)} but {len(images)} elements")
    return images


def _from_json(data: list[Any]) -> Iterator[bytes]:
    for element in data:
        if isinstance(element, list):
            yield from _from_json(element)
            continue
        try:
            yield base64.b64decode(element, validate=True)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"an element of {INPUT!r} is not base64; in JSON, files are") from error


def _elements(content: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(content):
        start = position + _PREFIX.size
        if start > len(content):
            raise InvalidRequest(f"the binary data of {INPUT!r} end inside an element's length")
        position = start + _PREFIX.unpack_from(content, position)[0]
        if position > len(content):
            raise InvalidRequest(f"the binary data of {INPUT!r} end inside an element")
        yield content[start:position]
