"""Federations: created as drafts by an admin, given initial parameters, activated."""

from collections.abc import Iterator
from dataclasses import dataclass

from pfedbayespt.client.connection import Connection, parse, segment
from pfedbayespt.client.resources._files import send_tensor_file
from pfedbayespt.protocol import (
    ApiKey,
    ApiKeyCreate,
    ApiKeyRole,
    EnrolmentToken,
    EnrolmentTokenCreate,
    Federation,
    FederationCreate,
    FederationSpecification,
    FederationStatus,
    ModelVersion,
    NewApiKey,
)


@dataclass(frozen=True)
class Federations:
    """Operations on federations."""

    _connection: Connection

    def create(self, name: str, specification: FederationSpecification) -> Federation:
        """Create a draft (admin)."""
        message = FederationCreate(name=name, specification=specification)
        return self._connection.post("/v1/federations", Federation, message)

    def list(self, *, status: FederationStatus | None = None) -> Iterator[Federation]:
        """Yield all federations, oldest first (admin)."""
        return self._connection.pages("/v1/federations", Federation, status=status)

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

    def create_api_key(
        self, name: str, organisation: str, key_name: str, role: ApiKeyRole = ApiKeyRole.PREDICTOR
    ) -> NewApiKey:
        """Make an API key; it is shown this once (admin, federation lead)."""
        message = ApiKeyCreate(organisation=organisation, name=key_name, role=role)
        return self._connection.post(f"{_path(name)}/api-keys", NewApiKey, message)

    def list_api_keys(self, name: str) -> Iterator[ApiKey]:
        """Yield the federation's API keys, oldest first, without their secrets (admin, lead, auditor)."""
        return self._connection.pages(f"{_path(name)}/api-keys", ApiKey)

    def revoke_api_key(self, api_key_id: str) -> ApiKey:
        """Make an API key worth nothing; repeating it is harmless (admin, federation lead)."""
        return self._connection.post(f"/v1/api-keys/{segment(api_key_id)}/revoke", ApiKey)

    def create_enrolment_token(
        self, name: str, organisation: str, valid_seconds: int = 24 * 3600
    ) -> EnrolmentToken:
        """Make a token that lets one site of `organisation` join once (admin)."""
        message = EnrolmentTokenCreate(organisation=organisation, valid_seconds=valid_seconds)
        return self._connection.post(f"{_path(name)}/enrolment-tokens", EnrolmentToken, message)


def _path(name: str) -> str:
    return f"/v1/federations/{segment(name)}"
