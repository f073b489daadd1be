"""Federations: created as drafts by an admin, given initial parameters, activated."""

from collections.abc import Iterator
from dataclasses import dataclass

from pfedbayespt.client.connection import Connection, parse, segment
from pfedbayespt.client.resources._files import send_tensor_file
from pfedbayespt.protocol import (
    EnrolmentToken,
    EnrolmentTokenCreate,
    Federation,
    FederationCreate,
    FederationSpecification,
    ModelVersion,
)


@dataclass(frozen=True)
class Federations:
    """Operations on federations."""

    _connection: Connection

    def create(self, name: str, specification: FederationSpecification) -> Federation:
        """Create a draft (admin)."""
        message = FederationCreate(name=name, specification=specification)
        return self._connection.post("/v1/federations", Federation, message)

    def list(self) -> Iterator[Federation]:
        """Yield all federations, oldest first (admin)."""
        return self._connection.pages("/v1/federations", Federation)

    def get(self, name: str) -> Federation:
        """Return one federation."""
        return self._connection.get(_path(name), Federation)

    def upload_initial_parameters(self, name: str, content: bytes) -> ModelVersion:
        """Give a draft its version 0: a safetensors file with a `ParametersManifest` (admin)."""
        answer = send_tensor_file(self._connection, f"{_path(name)}/initial-parameters", content)
        return parse(answer, ModelVersion)

    def activate(self, name: str) -> Federation:
        """Let rounds begin (admin). The specification never changes from here on."""
        return self._connection.post(f"{_path(name)}/activate", Federation)

    def pause(self, name: str) -> Federation:
        """Start no more rounds for now (admin)."""
        return self._connection.post(f"{_path(name)}/pause", Federation)

    def resume(self, name: str) -> Federation:
        """Go on after a pause (admin)."""
        return self._connection.post(f"{_path(name)}/resume", Federation)

    def archive(self, name: str) -> Federation:
        """End the federation for good (admin)."""
        return self._connection.post(f"{_path(name)}/archive", Federation)

    def create_enrolment_token(
        self, name: str, organisation: str, valid_seconds: int = 24 * 3600
    ) -> EnrolmentToken:
        """Make a token that lets one site of `organisation` join once (admin)."""
        message = EnrolmentTokenCreate(organisation=organisation, valid_seconds=valid_seconds)
        return self._connection.post(f"{_path(name)}/enrolment-tokens", EnrolmentToken, message)


def _path(name: str) -> str:
    return f"/v1/federations/{segment(name)}"
