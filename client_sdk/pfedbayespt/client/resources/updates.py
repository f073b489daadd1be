"""Updates: what sites submit in a round."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from pfedbayespt.client.connection import Connection, parse, segment, to_json
from pfedbayespt.client.errors import IntegrityError
from pfedbayespt.client.resources._files import send_tensor_file
from pfedbayespt.protocol import (
    STATEMENT_HEADER,
    Receipt,
    Update,
    UpdateStatement,
    UpdateStatus,
    digest_of_bytes,
)


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

    def receipt(self, update_id: str) -> Receipt:
        """Return the signed receipt of an accepted update (admin; site: its own)."""
        return self._connection.get(f"/v1/updates/{segment(update_id)}/receipt", Receipt)

    def download(self, update_id: str, digest: str) -> bytes:
        """Return the file of an accepted update, whose digest must be `digest` (admin).

        Raises:
            IntegrityError: other bytes came.
        """
        content = self._connection.send("GET", f"/v1/updates/{segment(update_id)}/parameters").body
        if (actual := digest_of_bytes(content)) != digest:
            raise IntegrityError(f"update {update_id} should be {digest}, but {actual} arrived")
        return content

    def list(self, round_id: str, *, status: UpdateStatus | None = None) -> Iterator[Update]:
        """Yield the round's updates (admin)."""
        return self._connection.pages(f"/v1/rounds/{segment(round_id)}/updates", Update, status=status)

    def get(self, update_id: str) -> Update:
        """Return one update (admin)."""
        return self._connection.get(f"/v1/updates/{segment(update_id)}", Update)
