"""Which tensor files the rows cannot do without."""

from dataclasses import dataclass

from sqlalchemy import select

from pfedbayespt.protocol import Digest, UpdateStatus
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.updates.models import UpdateRecord

_NEEDED = (
    UpdateStatus.ACCEPTED,
    UpdateStatus.AGGREGATED,
)  # a discarded one may have been discarded for its damage


@dataclass(frozen=True)
class RequiredBlob:
    """A file, and what it is, for people to read. `size_bytes` None: no row tells it."""

    digest: Digest
    subject: str
    size_bytes: int | None


def required_blobs(tx: Transaction) -> list[RequiredBlob]:
    """Return what every version and every update in force needs, each digest once, in order."""
    found: dict[str, RequiredBlob] = {}
    versions = select(
        ModelVersionRecord.id,
        ModelVersionRecord.digest,
        ModelVersionRecord.size_bytes,
        ModelVersionRecord.optimiser_state_digest,
    )
    for version_id, digest, size_bytes, state_digest in tx.session.execute(versions):
        found.setdefault(digest, RequiredBlob(digest, f"version {version_id}", size_bytes))
        if state_digest is not None:
            found.setdefault(
                state_digest, RequiredBlob(state_digest, f"optimiser state of version {version_id}", None)
            )
    updates = select(UpdateRecord.id, UpdateRecord.digest, UpdateRecord.size_bytes).where(
        UpdateRecord.status.in_(_NEEDED), UpdateRecord.payload_retired_at.is_(None)
    )
    for update_id, digest, size_bytes in tx.session.execute(updates):
        found.setdefault(digest, RequiredBlob(digest, f"update {update_id}", size_bytes))
    return [found[digest] for digest in sorted(found)]
