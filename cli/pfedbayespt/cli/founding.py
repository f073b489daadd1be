"""Founding a federation: from a specification and a backbone file to version 0."""

import json
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pfedbayespt.cli.failures import UserError
from pfedbayespt.client import CoordinatorClient
from pfedbayespt.client.errors import AlreadyExists
from pfedbayespt.protocol import (
    Federation,
    FederationSpecification,
    FederationStatus,
    ParametersManifest,
    digest_of_bytes,
    digest_of_message,
    tensors,
)


def read_specification(file: Path, backbone: Path) -> FederationSpecification:
    """Read a specification from TOML or JSON; a missing `backbone.weights_digest` is that of `backbone`.

    Raises:
        UserError: it cannot be read, is not a specification, or names another backbone.
    """
    specification = parse_specification(file, digest_of_bytes(backbone.read_bytes()))
    check_backbone(specification, backbone, str(file))
    return specification


def check_backbone(specification: FederationSpecification, backbone: Path, whose: str) -> None:
    """Return if the file is the specification's backbone.

    Raises:
        UserError: it is another one; `whose` the specification is comes into the message.
    """
    actual = digest_of_bytes(backbone.read_bytes())
    if specification.backbone.weights_digest != actual:
        raise UserError(
            f"{whose} names backbone {specification.backbone.weights_digest}, but {backbone} is {actual}"
        )


def parse_specification(file: Path, weights_digest: str) -> FederationSpecification:
    """Read a specification from TOML or JSON; `weights_digest` is its backbone's, if it names none.

    Raises:
        UserError: it cannot be read, or is not a specification.
    """
    content = _parse(file)
    part = content.get("backbone")
    if isinstance(part, dict):
        part.setdefault("weights_digest", weights_digest)
    try:
        return FederationSpecification.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{file} is not a specification:\n{_faults(error)}") from error


def found(
    client: CoordinatorClient,
    name: str,
    specification: FederationSpecification,
    backbone: Path,
    *,
    activate: bool,
) -> Federation:
    """Create the federation, upload its version 0 and activate it; what is done already is not done again.

    Raises:
        UserError: a federation of this name exists and agrees on something else.
    """
    parameters = initial_parameters_file(name, specification, backbone)
    federation = _create(client, name, specification)
    if federation.status is not FederationStatus.DRAFT:
        return federation
    client.federations.upload_initial_parameters(name, parameters)
    return client.federations.activate(name) if activate else client.federations.get(name)


def initial_parameters_file(name: str, specification: FederationSpecification, backbone: Path) -> bytes:
    """Return version 0: the shared parameters of an untrained model. The same arguments give the same bytes."""
    from pfedbayespt.model.backbone import load_backbone
    from pfedbayespt.model.config import BackboneConfig, ModelConfig
    from pfedbayespt.model.parameters import initial_parameters

    described = specification.model_dump(mode="json")
    trunk = load_backbone(BackboneConfig.from_specification(described), backbone)
    parameters = initial_parameters(
        ModelConfig.from_specification(described), trunk, specification.training.seed
    )
    manifest = ParametersManifest(
        federation=name, specification_digest=digest_of_message(specification), version_number=0
    )
    return tensors.encode(parameters, manifest)


def _create(client: CoordinatorClient, name: str, specification: FederationSpecification) -> Federation:
    try:
        return client.federations.create(name, specification)
    except AlreadyExists:
        existing = client.federations.get(name)
    if existing.specification_digest != digest_of_message(specification):
        raise UserError(
            f"a federation {name!r} exists already, with specification {existing.specification_digest}"
        )
    return existing


def _parse(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}; allowed: TOML (.toml) or JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object")
    return content


def _faults(error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in fault["loc"]) or "specification"
        lines.append(f"  {where}: {fault['msg']}")
    return "\n".join(lines)
