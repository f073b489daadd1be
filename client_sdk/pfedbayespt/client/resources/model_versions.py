"""Model versions: immutable, numbered, each named by the digest of its file."""

from collections.abc import Iterator
from dataclasses import dataclass

from pfedbayespt.client.connection import Connection, parse, segment, to_json
from pfedbayespt.client.errors import IntegrityError
from pfedbayespt.protocol import (
    Evaluation,
    Lineage,
    ModelVersion,
    ModelVersionStatus,
    SiteEvaluation,
    digest_of_bytes,
)


@dataclass(frozen=True)
class ModelVersions:
    """Operations on model versions."""

    _connection: Connection

    def list(self, federation: str, *, status: ModelVersionStatus | None = None) -> Iterator[ModelVersion]:
        """Yield the federation's versions, newest first."""
        return self._connection.pages(
            f"/v1/federations/{segment(federation)}/model-versions", ModelVersion, status=status
        )

    def get(self, federation: str, number: int) -> ModelVersion:
        """Return one version."""
        return self._connection.get(_path(federation, number), ModelVersion)

    def lineage(self, federation: str, number: int) -> Lineage:
        """Return where a version comes from: its round, the updates behind it, and its ancestors."""
        return self._connection.get(f"{_path(federation, number)}/lineage", Lineage)

    def download(self, federation: str, number: int, digest: str) -> bytes:
        """Return the version's parameters file, whose digest must be `digest`.

        Raises:
            IntegrityError: other bytes came.
        """
        content = self._connection.send("GET", f"{_path(federation, number)}/parameters").body
        actual = digest_of_bytes(content)
        if actual != digest:
            raise IntegrityError(
                f"version {number} of {federation!r} should be {digest}, but {actual} arrived; nothing was kept"
            )
        return content

    def report_evaluation(
        self, federation: str, number: int, site_id: str, evaluation: Evaluation
    ) -> SiteEvaluation:
        """Report how well a version does on the site's held-out images (site). Repeating it is harmless."""
        answer = self._connection.send(
            "PUT",
            f"{_path(federation, number)}/evaluations/{segment(site_id)}",
            body=to_json(evaluation),
            media_type="application/json",
        )
        return parse(answer, SiteEvaluation)

    def promote(self, federation: str, number: int) -> ModelVersion:
        """Let a retired or held version answer predictions (admin)."""
        return self._connection.post(f"{_path(federation, number)}/promote", ModelVersion)


def _path(federation: str, number: int) -> str:
    return f"/v1/federations/{segment(federation)}/model-versions/{segment(number)}"
