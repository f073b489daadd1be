"""What this site agreed to, and the refusal to go on with anything else (promise P8).

Rules:
1. The specification's digest is computed here, never taken from the coordinator's word.
2. The first specification that is seen is pinned; every later assignment must carry the same one.
3. The backbone's digest is part of the specification; the file beside the site must have it.
4. A parameters file belongs to the federation, the specification and the version that it was announced for.
"""

import hashlib
import io
from pathlib import Path

from pydantic import ValidationError

from pfedbayespt.client.errors import (
    BackboneMismatchError,
    IntegrityError,
    SpecificationChangedError,
)
from pfedbayespt.protocol import (
    Assignment,
    BackboneSpecification,
    FederationSpecification,
    ParametersManifest,
    TensorFileError,
    digest_of_message,
    tensors,
)


def check_assignment(assignment: Assignment, federation: str, agreed_digest: str | None) -> str:
    """Return the digest of the assignment's specification if this site may follow it.

    Args:
        assignment: what the coordinator asks.
        federation: the one this site joined.
        agreed_digest: the pinned digest; None: nothing is pinned yet.

    Raises:
        SpecificationChangedError: it speaks of another federation or specification.
    """
    actual = digest_of_message(assignment.specification)
    if assignment.federation != federation:
        raise SpecificationChangedError(
            f"this site joined {federation!r}, but is asked to work for {assignment.federation!r}"
        )
    if assignment.specification_digest != actual:
        raise SpecificationChangedError(
            f"the coordinator announces specification {assignment.specification_digest}, but sends {actual}"
        )
    if agreed_digest not in {None, actual}:
        raise SpecificationChangedError(
            f"this site agreed to specification {agreed_digest}, but is asked to follow {actual}; "
            "if the change is wanted, enrol again in a new directory"
        )
    return actual


def check_backbone(file: Path, specification: BackboneSpecification) -> None:
    """Return if `file` holds the federation's backbone.

    Raises:
        BackboneMismatchError: it is missing, or has another digest.
    """
    actual = digest_of_file(file)
    if actual != specification.weights_digest:
        raise BackboneMismatchError(
            f"{file} has digest {actual}, but the federation agreed on {specification.weights_digest} "
            f"({specification.architecture})"
        )


def digest_of_file(file: Path) -> str:
    """Return the digest of a backbone file.

    Raises:
        BackboneMismatchError: it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
    except OSError as error:
        raise BackboneMismatchError(f"the backbone file {file} cannot be read: {error.strerror}") from error


def check_parameters(
    content: bytes, specification: FederationSpecification, federation: str, number: int
) -> None:
    """Return if a parameters file says that it is version `number` of this federation.

    Raises:
        IntegrityError: it says something else, or nothing that can be read.
    """
    manifest = parameters_manifest(content)
    expected = (federation, digest_of_message(specification), number)
    actual = (manifest.federation, manifest.specification_digest, manifest.version_number)
    if actual != expected:
        raise IntegrityError(f"the parameters file says that it is {actual}, but {expected} was announced")


def parameters_manifest(content: bytes) -> ParametersManifest:
    """Return what a parameters file says about itself.

    Raises:
        IntegrityError: nothing that can be read.
    """
    try:
        header = tensors.read_header(io.BytesIO(content))
        return ParametersManifest.model_validate_json(header.manifest_json)
    except (TensorFileError, ValidationError) as error:
        raise IntegrityError(f"this is not a parameters file: {error}") from error
