"""Rounds: one collect, aggregate, publish cycle each."""

from collections.abc import Iterator
from dataclasses import dataclass

from pfedbayespt.client.connection import Connection, segment
from pfedbayespt.protocol import Round, RoundStatus


@dataclass(frozen=True)
class Rounds:
    """Operations on rounds."""

    _connection: Connection

    def list(self, federation: str, *, status: RoundStatus | None = None) -> Iterator[Round]:
        """Yield the federation's rounds, newest first."""
        return self._connection.pages(f"/v1/federations/{segment(federation)}/rounds", Round, status=status)

    def start(self, federation: str) -> Round:
        """Start a round now (admin)."""
        return self._connection.post(f"/v1/federations/{segment(federation)}/rounds", Round)

    def get(self, round_id: str) -> Round:
        """Return one round."""
        return self._connection.get(f"/v1/rounds/{segment(round_id)}", Round)

    def close(self, round_id: str) -> Round:
        """Aggregate what is there, if the quorum is met (admin)."""
        return self._connection.post(f"/v1/rounds/{segment(round_id)}/close", Round)

    def abandon(self, round_id: str) -> Round:
        """End the round without a result (admin)."""
        return self._connection.post(f"/v1/rounds/{segment(round_id)}/abandon", Round)
