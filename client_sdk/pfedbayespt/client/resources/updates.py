"""Updates: what sites submit in a round."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from pfedbayespt.client.connection import Connection, parse, segment, to_json
from pfedbayespt.client.resources._files import send_tensor_file
from pfedbayespt.protocol import STATEMENT_HEADER, Receipt, Update, UpdateStatement


@dataclass(frozen=True)
class Updates:
    """Operations on updates."""

    _connection: Connection

    def submit(self, statement: UpdateStatement, content: bytes) -> Receipt:
        """Submit an update file and what the site signed about it (site). The same bytes give the same receipt.

        Raises:
            RoundClosed, NotInCohort, UpdateConflict, UpdateRejected, SignatureRejected: see
                `pfedbayespt.client.errors`.
        """
        path = f"/v1/rounds/{segment(statement.round_id)}/updates/{segment(statement.site_id)}"
        text = base64.urlsafe_b64encode(to_json(statement)).rstrip(b"=").decode()
        answer = send_tensor_file(self._connection, path, content, {STATEMENT_HEADER: text})
        return parse(answer, Receipt)

    def list(self, round_id: str) -> Iterator[Update]:
        """Yield the round's updates (admin)."""
        return self._connection.pages(f"/v1/rounds/{segment(round_id)}/updates", Update)

    def get(self, update_id: str) -> Update:
        """Return one update (admin)."""
        return self._connection.get(f"/v1/updates/{segment(update_id)}", Update)
