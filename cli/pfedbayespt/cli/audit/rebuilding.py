"""Computing a version again from what its manifest records: the same bytes, or it is not that version.

A server optimiser's memory is not part of an export: it is computed again too, from the first version on.
"""

from functools import partial

from pydantic import TypeAdapter

from pfedbayespt.cli.audit.archive import Archive
from pfedbayespt.cli.failures import UserError
from pfedbayespt.protocol import (
    AggregationSpecification,
    ModelVersion,
    OptimiserStateManifest,
    ParametersManifest,
    VersionManifest,
)
from pfedbayespt.server.blobs import BlobError, MemoryBlobStore, TemporaryBlob
from pfedbayespt.server.model_versions.service import inputs_digest
from pfedbayespt.server.worker.aggregation import ServerStep, WeightedUpdate, aggregate
from pfedbayespt.server.worker.optimisers import optimiser_of

_RULE: TypeAdapter[AggregationSpecification] = TypeAdapter(AggregationSpecification)


def rebuild(archive: Archive, number: int) -> str:
    """Return the digest that computing version `number` again leads to.

    Raises:
        UserError: the export lacks the version, its signed manifest, or a file that it takes.
    """
    store = MemoryBlobStore()
    for file in archive.files():
        with store.create() as blob:
            blob.write(file.read_bytes())
            store.put(blob)
    try:
        return _Rebuilder(archive, store).digest_of(number)
    except BlobError as error:
        _explain_retired(archive)
        raise UserError(f"{error}; export with --files, and verify the export first") from error


def _explain_retired(archive: Archive) -> None:
    retired = [update for update in archive.updates if update.payload_retired_at is not None]
    if retired:
        raise UserError(
            f"the files of {len(retired)} updates were retired by the coordinator, the first on "
            f"{retired[0].payload_retired_at:%Y-%m-%d}: what was made of them cannot be computed again. "
            "Lineage, signatures and digests can still be verified"
        )


class _Rebuilder:
    def __init__(self, archive: Archive, store: MemoryBlobStore) -> None:
        self._store = store
        self._versions = {version.version_number: version for version in archive.versions}

    def digest_of(self, number: int) -> str:
        version = self._version(number)
        manifest = _manifest_of(version)
        if manifest.parent_digest is None:
            raise UserError(f"version {number} holds the initial parameters, which nothing was computed from")
        with self._store.create() as output, self._store.open(manifest.parent_digest) as base:
            facts = _facts(manifest)
            parameters = ParametersManifest.model_validate(facts | {"parent_digest": manifest.parent_digest})
            updates = [
                WeightedUpdate(part.digest, partial(self._store.open, part.digest), part.weight)
                for part in manifest.inputs
            ]
            with self._store.create() as state:
                step = self._step(
                    version.parent_version or 0, manifest, OptimiserStateManifest.model_validate(facts), state
                )
                aggregate(base, updates, parameters, output, step=step)
                if step is not None:
                    self._store.put(state)
            return output.digest

    def _step(
        self,
        parent: int,
        manifest: VersionManifest,
        state_manifest: OptimiserStateManifest,
        state: TemporaryBlob,
    ) -> ServerStep | None:
        optimiser = optimiser_of(_RULE.validate_python(manifest.rule))
        if optimiser is None:
            return None
        previous = manifest.parent_optimiser_state_digest
        if previous is not None and not self._store.exists(previous):
            self._make_state(parent, previous)
        opened = None if previous is None else self._store.open(previous)
        return ServerStep(optimiser, opened, state_manifest, state)

    def _make_state(self, number: int, digest: str) -> None:
        """Compute the optimiser's memory `digest`, which version `number` has or was given by its parent."""
        version = self._version(number)
        if _manifest_of(version).parent_optimiser_state_digest == digest:
            self._make_state(int(version.parent_version or 0), digest)
            return
        self.digest_of(number)
        if not self._store.exists(digest):
            raise UserError(
                f"the optimiser's state after version {number} is not {digest} when computed again"
            )

    def _version(self, number: int) -> ModelVersion:
        if number not in self._versions:
            raise UserError(f"the export holds no version {number}; it holds {sorted(self._versions)}")
        return self._versions[number]


def _manifest_of(version: ModelVersion) -> VersionManifest:
    if version.manifest is None:
        raise UserError(f"version {version.version_number} has no signed manifest to compute it from")
    return version.manifest


def _facts(manifest: VersionManifest) -> dict[str, object]:
    return {
        "federation": manifest.federation,
        "specification_digest": manifest.specification_digest,
        "version_number": manifest.version_number,
        "inputs_digest": inputs_digest(manifest.inputs, manifest.parent_optimiser_state_digest),
    }
