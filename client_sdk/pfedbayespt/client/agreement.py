"""What this site agreed to, and the refusal to go on with anything else (promise P8).

Rules:
1. The specification's digest is computed here, never taken from the coordinator's word.
2. The first specification that is seen is pinned; every later assignment must carry the same one, and the
   coordinator's signed word for it. The coordinator's own key is pinned when the site enrols.
3. The backbone's digest is part of the specification; the file beside the site must have it.
4. A parameters file belongs to the federation, the specification and the version that it was announced for, and the
   coordinator has signed for it: its word can be held against it later.
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
    CoordinatorIdentity,
    FederationSpecification,
    ModelVersion,
    ParametersManifest,
    Receipt,
    SignatureError,
    TensorFileError,
    UpdateStatement,
    digest_of_message,
    key_id_of,
    tensors,
)


def check_identity(identity: CoordinatorIdentity, expected_key_id: str | None) -> None:
    """Return if the coordinator's key is what it says, and the one that was expected, if any.

    Raises:
        IntegrityError: it is not.
    """
    if identity.key_id != key_id_of(identity.public_key):
        raise IntegrityError(f"the coordinator calls its key {identity.key_id}, but that is another key's id")
    if expected_key_id not in {None, identity.key_id}:
        raise IntegrityError(
            f"the organisation was told coordinator {expected_key_id}, but {identity.key_id} answers here"
        )


def check_receipt(receipt: Receipt, statement: UpdateStatement, coordinator: CoordinatorIdentity) -> None:
    """Return if a receipt is the pinned coordinator's, for exactly the update that was submitted.

    Raises:
        IntegrityError: it is not.
    """
    try:
        receipt.check_signature(coordinator.public_key)
    except SignatureError as error:
        raise IntegrityError(f"the receipt is not the coordinator's: {error}") from error
    sent = (statement.federation, statement.round_id, statement.site_id, statement.update_digest)
    confirmed = (receipt.federation, receipt.round_id, receipt.site_id, receipt.digest)
    if confirmed != sent:
        raise IntegrityError(f"the receipt is for {confirmed}, but {sent} was submitted")


def check_assignment(
    assignment: Assignment, federation: str, agreed_digest: str | None, coordinator: CoordinatorIdentity
) -> str:
    """Return the digest of the assignment's specification if this site may follow it.

    Args:
        assignment: what the coordinator asks.
        federation: the one this site joined.
        agreed_digest: the pinned digest; None: nothing is pinned yet.
        coordinator: whose signature the terms must bear.

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
    _check_terms(assignment, actual, coordinator)
    return actual


def _check_terms(assignment: Assignment, digest: str, coordinator: CoordinatorIdentity) -> None:
    terms = assignment.terms
    if terms is None:
        raise SpecificationChangedError("the coordinator does not sign what it asks this site to follow")
    try:
        terms.check_signature(coordinator.public_key)
    except SignatureError as error:
        raise SpecificationChangedError(f"the terms are not the coordinator's: {error}") from error
    backbone = assignment.specification.backbone.weights_digest
    stated = (terms.federation, terms.specification_digest, terms.backbone_digest)
    if stated != (assignment.federation, digest, backbone):
        raise SpecificationChangedError(f"the coordinator signed {stated}, but asks to follow {digest}")


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


def check_version(
    version: ModelVersion,
    announced: tuple[str, int, str],
    specification: FederationSpecification,
    coordinator: CoordinatorIdentity,
) -> None:
    """Return if the pinned coordinator has signed that a version is what was announced, under what was agreed on.

    Args:
        version: as the coordinator describes it.
        announced: federation, number and digest.
        specification: what this site agreed to.
        coordinator: whose signature the version's manifest must bear.

    Raises:
        IntegrityError: it has signed nothing, or something else.
    """
    signed = version.manifest
    if signed is None:
        raise IntegrityError(f"the coordinator does not sign for version {announced[1]} of {announced[0]!r}")
    try:
        signed.check_signature(coordinator.public_key)
    except SignatureError as error:
        raise IntegrityError(f"the version's manifest is not the coordinator's: {error}") from error
    agreed = (digest_of_message(specification), specification.backbone.weights_digest)
    stated = (signed.federation, signed.version_number, signed.digest)
    if (*stated, signed.specification_digest, signed.backbone_digest) != (*announced, *agreed):
        raise IntegrityError(f"the coordinator signed for {stated}, but {announced} was announced")


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
