"""The model versions a site has downloaded: few, verified on every read; the least recently used go first.

A site may predict in one thread while it trains in another, so a file may be gone at any moment.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pfedbayespt.client.agreement import check_version
from pfedbayespt.client.coordinator import CoordinatorClient
from pfedbayespt.client.errors import IntegrityError
from pfedbayespt.client.state import write_whole
from pfedbayespt.protocol import CoordinatorIdentity, FederationSpecification, digest_of_bytes

KEPT_VERSIONS = 3
"""The one to train from, the candidate to evaluate, the one that serves."""


@dataclass(frozen=True)
class VersionCache:
    """Parameters files by digest, in one folder of the state directory."""

    folder: Path
    client: CoordinatorClient
    federation: str
    specification: FederationSpecification
    coordinator: CoordinatorIdentity

    def fetch(self, number: int, digest: str) -> bytes:
        """Return the parameters file of version `number`, from the disk or from the coordinator.

        Raises:
            IntegrityError: what the coordinator sent is not what it announced, or not what it has signed for.
            StateError: the disk is full or broken.
        """
        kept = self.read(digest)
        if kept is not None:
            return kept
        described = self.client.model_versions.get(self.federation, number)
        announced = (self.federation, number, digest)
        check_version(described, announced, self.specification, self.coordinator)
        content = self.client.model_versions.download(self.federation, number, digest)
        write_whole(self._file(digest), content)
        self._forget_the_least_used()
        return content

    def read(self, digest: str) -> bytes | None:
        """Return the file of `digest` if it is here and whole."""
        file = self._file(digest)
        try:
            content = file.read_bytes()
            if digest_of_bytes(content) == digest:
                os.utime(file)  # used now, so forgotten later
                return content
        except FileNotFoundError:
            return None
        file.unlink(missing_ok=True)
        return None

    def _file(self, digest: str) -> Path:
        algorithm, _, name = digest.partition(":")
        if algorithm != "sha256" or not name.isalnum():
            raise IntegrityError(f"{digest!r} is not a digest; allowed: sha256:<hex>")
        return self.folder / f"{name}.safetensors"

    def _forget_the_least_used(self) -> None:
        files = sorted(self.folder.glob("*.safetensors"), key=_last_used)
        for file in files[:-KEPT_VERSIONS]:
            file.unlink(missing_ok=True)


def _last_used(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:  # forgotten by another thread of the site
        return 0
