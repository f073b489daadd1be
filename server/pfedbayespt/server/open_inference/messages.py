"""The protocol's messages, as far as this service needs them; unknown members are ignored, as it asks."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class _Lenient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TensorMetadata(_Lenient):
    """A tensor's name, type and shape; -1 stands for any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class ServerMetadata(_Lenient):
    """What the server is and which extensions it speaks."""

    name: str = "pfedbayespt"
    version: str = "1"
    extensions: tuple[str, ...] = ("binary_tensor_data",)


class ModelMetadata(_Lenient):
    """A federation's model: the version that would answer, and its tensors."""

    name: str
    versions: tuple[str, ...]
    platform: str = "pfedbayespt"
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class Live(_Lenient):
    """Whether the server is alive."""

    live: bool = True


class Ready(_Lenient):
    """Whether the server, or a model, is ready."""

    ready: bool = True


class ModelReady(Ready):
    """Whether a model is ready."""

    name: str


class InferInput(_Lenient):
    """A tensor that comes in: `data` holds it, or `parameters.binary_data_size` bytes behind the JSON."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class OutputRequest(_Lenient):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] = {}


class InferRequest(_Lenient):
    """A request for inference."""

    id: str | None = None
    parameters: dict[str, Any] = {}
    inputs: tuple[InferInput, ...] = Field(min_length=1)
    outputs: tuple[OutputRequest, ...] = ()


class OutputTensor(_Lenient):
    """A tensor that goes out; `data` is absent where it follows in binary."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class InferResponse(_Lenient):
    """The answer to a request for inference."""

    id: str | None = None
    model_name: str
    model_version: str
    outputs: tuple[OutputTensor, ...]
