"""Verifying: all that can be checked without trusting the coordinator's own word."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from pfedbayespt.server import schema
from pfedbayespt.server.blobs import BlobError, BlobStore, FolderBlobStore, open_store
from pfedbayespt.server.database import Database
from pfedbayespt.server.events import repository as event_rows
from pfedbayespt.server.events import service as events
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.operations.manifest import BackupManifest, digest_of_file, read_manifest
from pfedbayespt.server.operations.required import RequiredBlob, required_blobs
from pfedbayespt.server.settings import Settings


@dataclass(frozen=True)
class VerifyReport:
    """What was looked at, and what does not hold."""

    blobs: int
    federations: int
    problems: tuple[str, ...]


def verify(settings: Settings) -> VerifyReport:
    """Hash every tensor file that a row needs, and follow every audit chain, of a coordinator that may be running.

    Raises:
        SchemaError: the database is not of this release.
    """
    database = Database(settings.effective_database_url)
    try:
        schema.check(database)
        return _verify(database, open_store(settings.blobs_url, settings.data_dir))
    finally:
        database.close()


def verify_backup(folder: Path) -> VerifyReport:
    """Do the same to a backup; a PostgreSQL one is checked as a file: its rows are not looked at."""
    manifest, store = read_manifest(folder), FolderBlobStore(folder)
    problems = list(_snapshot_problems(folder, manifest))
    problems += _blob_problems(store, [RequiredBlob(digest, "backup", None) for digest in manifest.blobs])
    if manifest.database_kind != "sqlite" or problems:
        return VerifyReport(len(manifest.blobs), 0, tuple(problems))
    database = Database(f"sqlite:///{folder / manifest.database_file}")
    try:
        return _verify(database, store, rehash=False)
    finally:
        database.close()


def _verify(database: Database, store: BlobStore, *, rehash: bool = True) -> VerifyReport:
    with database.read() as tx:
        federations = tx.session.execute(select(FederationRecord.id, FederationRecord.name)).all()
        broken = [
            f"federation {name}: the audit chain breaks at event {event_id}"
            for federation_id, name in federations
            if (event_id := events.first_broken(event_rows.of_federation(tx, federation_id))) is not None
        ]
        needed = required_blobs(tx)
    problems = broken + _blob_problems(store, needed, rehash=rehash)
    return VerifyReport(len(needed), len(federations), tuple(problems))


def _snapshot_problems(folder: Path, manifest: BackupManifest) -> Iterator[str]:
    snapshot = folder / manifest.database_file
    if not snapshot.is_file():
        yield f"{snapshot.name} is missing"
    elif digest_of_file(snapshot) != manifest.database_digest:
        yield f"{snapshot.name} is damaged: it is not {manifest.database_digest}"


def _blob_problems(store: BlobStore, needed: list[RequiredBlob], *, rehash: bool = True) -> list[str]:
    look: Callable[[RequiredBlob], None] = _read(store) if rehash else _find(store)
    problems = []
    for blob in needed:
        try:
            look(blob)
        except BlobError as error:
            problems.append(f"{blob.subject}: {error}")
    return problems


def _read(store: BlobStore) -> Callable[[RequiredBlob], None]:
    def look(blob: RequiredBlob) -> None:
        store.open(blob.digest, verify=True).close()

    return look


def _find(store: BlobStore) -> Callable[[RequiredBlob], None]:
    def look(blob: RequiredBlob) -> None:
        store.size_bytes(blob.digest)

    return look
