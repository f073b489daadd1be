"""Trials: a version beside the one that serves, answering for some or only compared."""

from collections.abc import Iterator
from dataclasses import dataclass

from pfedbayespt.client.connection import Connection, segment
from pfedbayespt.protocol import Trial, TrialCreate, TrialTerms


@dataclass(frozen=True)
class Trials:
    """Operations on trials."""

    _connection: Connection

    def start(self, federation: str, model_version: int, terms: TrialTerms | None = None) -> Trial:
        """Try a version; without terms it is compared on every image and answers nothing (admin, lead)."""
        agreed = (terms or TrialTerms()).model_dump()
        request = TrialCreate(model_version=model_version, **agreed)
        return self._connection.post(_path(federation), Trial, request)

    def list(self, federation: str) -> Iterator[Trial]:
        """Yield a federation's trials, newest first (admin, lead, auditor)."""
        return self._connection.pages(_path(federation), Trial)

    def get(self, federation: str, trial_id: str) -> Trial:
        """Return a trial and what it has shown so far (admin, lead, auditor)."""
        return self._connection.get(f"{_path(federation)}/{segment(trial_id)}", Trial)

    def stop(self, federation: str, trial_id: str) -> Trial:
        """End a trial; repeating it is harmless (admin, lead)."""
        return self._connection.post(f"{_path(federation)}/{segment(trial_id)}/stop", Trial)


def _path(federation: str) -> str:
    return f"/v1/federations/{segment(federation)}/trials"
