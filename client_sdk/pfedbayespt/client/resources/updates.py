"""Updates: what sites submit in a round."""

from collections.abc import Iterator
from dataclasses import dataclass

from pfedbayespt.client.connection import Connection, parse, segment
from pfedbayespt.client.resources._files import send_tensor_file
from pfedbayespt.protocol import Receipt, Update


@dataclass(frozen=True)
class Updates:
    """Operations on updates."""

    _connection: Connection

    def submit(self, round_id: str, site_id: str, content: bytes) -> Receipt:
        """Submit an update file (site). The same bytes again give the same receipt.

        Raises:
            RoundClosed, NotInCohort, UpdateConflict, UpdateRejected: see `pfedbayespt.client.errors`.
        """
        path = f"/v1/rounds/{segment(round_id)}/updates/{segment(site_id)}"
        return parse(send_tensor_file(self._connection, path, content), Receipt)

    def list(self, round_id: str) -> Iterator[Update]:
        """Yield the round's updates (admin)."""
        return self._connection.pages(f"/v1/rounds/{segment(round_id)}/updates", Update)

    def get(self, update_id: str) -> Update:
        """Return one update (admin)."""
        return self._connection.get(f"/v1/updates/{segment(update_id)}", Update)
