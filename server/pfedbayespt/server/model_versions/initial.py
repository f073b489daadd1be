"""What the initial parameters must be: a parameters file of this federation, version 0, all numbers finite."""

from dataclasses import dataclass
from typing import BinaryIO, Final

from pydantic import ValidationError

from pfedbayespt.protocol import ParametersManifest, TensorFileError, TensorSchema, tensors
from pfedbayespt.server.errors import ParametersRejected

INITIAL_NUMBER: Final = 0
_SLICE_ELEMENTS: Final = 2**16


@dataclass(frozen=True)
class Expected:
    """What the file's manifest must name."""

    federation: str
    specification_digest: str


@dataclass(frozen=True)
class File:
    """A file that passed, and is in the blob store."""

    digest: str
    size_bytes: int
    schema: TensorSchema


def check(file: BinaryIO, expected: Expected) -> TensorSchema:
    """Return the tensors that the file holds.

    Raises:
        ParametersRejected: it is no tensor file, names something else, or holds NaN or infinity.
    """
    try:
        header = tensors.read_header(file)
        manifest = ParametersManifest.model_validate_json(header.manifest_json)
        for spec in header.schema:
            for _ in tensors.iter_slices(file, header, spec.name, _SLICE_ELEMENTS):
                pass
    except TensorFileError as error:
        raise ParametersRejected(f"the file is not a parameters file: {error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "manifest"
        raise ParametersRejected(f"the file's manifest: {where}: {fault['msg']}") from error
    _check_manifest(manifest, expected)
    return header.schema


def _check_manifest(manifest: ParametersManifest, expected: Expected) -> None:
    wanted = ParametersManifest(
        federation=expected.federation,
        specification_digest=expected.specification_digest,
        version_number=INITIAL_NUMBER,
    )
    for name, value in wanted.model_dump().items():
        if (actual := getattr(manifest, name)) != value:
            raise ParametersRejected(f"the file's manifest: {name} is {actual!r}, must be {value!r}")
