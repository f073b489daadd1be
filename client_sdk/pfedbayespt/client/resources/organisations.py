"""Organisations: who takes part in which federation."""

from collections.abc import Iterator
from dataclasses import dataclass

from pfedbayespt.client.connection import Connection, segment
from pfedbayespt.protocol import Organisation, OrganisationCreate


@dataclass(frozen=True)
class Organisations:
    """Operations on organisations."""

    _connection: Connection

    def create(self, name: str) -> Organisation:
        """Make an organisation known that takes part nowhere yet (admin)."""
        return self._connection.post("/v1/organisations", Organisation, OrganisationCreate(name=name))

    def list(self) -> Iterator[Organisation]:
        """Yield all organisations, by name (admin)."""
        return self._connection.pages("/v1/organisations", Organisation)

    def get(self, name: str) -> Organisation:
        """Return an organisation that the caller belongs to, or may see."""
        return self._connection.get(f"/v1/organisations/{segment(name)}", Organisation)

    def of_federation(self, federation: str) -> Iterator[Organisation]:
        """Yield who takes part in a federation, by name (admin, lead, auditor; an org admin sees its own)."""
        return self._connection.pages(f"/v1/federations/{segment(federation)}/organisations", Organisation)
