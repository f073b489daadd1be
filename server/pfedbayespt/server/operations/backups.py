"""Taking a backup: rules 1 to 3 of the package."""

from dataclasses import dataclass
from importlib.metadata import version as release_of
from pathlib import Path
from typing import Final

from sqlalchemy import func, select

from pfedbayespt.protocol import Digest
from pfedbayespt.server import keys, schema
from pfedbayespt.server.blobs import BlobError, BlobStore, FolderBlobStore, open_store
from pfedbayespt.server.database import Database, Transaction
from pfedbayespt.server.events.models import EventRecord
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.operations import dumps
from pfedbayespt.server.operations.errors import OperationError
from pfedbayespt.server.operations.manifest import (
    KEY_FILE,
    MANIFEST_FILE,
    BackupManifest,
    digest_of_file,
    read_manifest,
    write_durably,
)
from pfedbayespt.server.operations.required import RequiredBlob, required_blobs
from pfedbayespt.server.settings import Settings

_CHUNK_BYTES: Final = 2**20


@dataclass(frozen=True)
class BackupReport:
    """What a backup did. `problems`: files that the coordinator itself has lost; all others are safe."""

    manifest: BackupManifest
    copied: int
    problems: tuple[str, ...]


def backup(settings: Settings, folder: Path, *, with_key: bool = True) -> BackupReport:
    """Bring the backup in `folder` up to date, or make one there.

    Raises:
        OperationError: the folder holds something else, or the database cannot be copied.
    """
    previous = _previous(folder)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.effective_database_url)
    try:
        snapshot = _snapshot(database, folder)
        with database.read() as tx:
            needed, heads, now = required_blobs(tx), _audit_heads(tx), tx.now
    finally:
        database.close()
    blobs = open_store(settings.blobs_url, settings.data_dir)
    copied, problems = _copy_all(blobs, FolderBlobStore(folder), needed)
    manifest = BackupManifest(
        created_at=now,
        release=release_of("pfedbayespt"),
        schema_revisions=schema.wanted_revisions(),
        database_kind="sqlite" if database.is_sqlite else "postgresql",
        database_file=snapshot.name,
        database_digest=digest_of_file(snapshot),
        key_id=_copy_key(settings, folder) if with_key else None,
        blobs=tuple(blob.digest for blob in needed),
        audit_heads=heads,
    )
    write_durably(folder / MANIFEST_FILE, manifest.model_dump_json(indent=1).encode())
    if previous is not None and previous.database_file != snapshot.name:
        (folder / previous.database_file).unlink(missing_ok=True)
    return BackupReport(manifest, copied, tuple(problems))


def copy_blob(source: BlobStore, target: BlobStore, digest: Digest) -> None:
    """Put a blob of one store into another.

    Raises:
        BlobError: the source has none, or a damaged one.
    """
    with source.open(digest, verify=True) as file, target.create() as blob:
        while chunk := file.read(_CHUNK_BYTES):
            blob.write(chunk)
        target.put(blob)


def _previous(folder: Path) -> BackupManifest | None:
    if (folder / MANIFEST_FILE).exists():
        return read_manifest(folder)
    started = {"blobs", "temporary", "sweep.lock", KEY_FILE}
    others = [path.name for path in (folder.iterdir() if folder.exists() else ()) if path.name not in started]
    if any(not name.startswith(("database-", ".")) for name in others):
        raise OperationError(
            f"{folder} is not empty and holds no backup; a backup goes into a folder of its own"
        )
    return None


def _snapshot(database: Database, folder: Path) -> Path:
    """Write the database into a file that is named by its content."""
    beside = folder / ".database.new"
    beside.unlink(missing_ok=True)
    dumps.dump(database, beside)
    digits = digest_of_file(beside).removeprefix("sha256:")
    return beside.replace(folder / f"database-{digits[:12]}.{dumps.suffix_of(database)}")


def _copy_all(source: BlobStore, target: BlobStore, needed: list[RequiredBlob]) -> tuple[int, list[str]]:
    copied, problems = 0, []
    for blob in needed:
        if target.exists(blob.digest):
            continue
        try:
            copy_blob(source, target, blob.digest)
            copied += 1
        except BlobError as error:
            problems.append(f"{blob.subject}: {error}")
    return copied, problems


def _copy_key(settings: Settings, folder: Path) -> str:
    file = settings.effective_signing_key_file
    if not file.exists():
        raise OperationError(
            f"there is no signing key {file}; without it no site would trust what is restored"
        )
    write_durably(folder / KEY_FILE, file.read_bytes())
    return keys.load_or_make(file).key_id


def _audit_heads(tx: Transaction) -> dict[str, str]:
    last = select(func.max(EventRecord.id)).group_by(EventRecord.federation_id)
    query = (
        select(FederationRecord.name, EventRecord.hash)
        .join(EventRecord, EventRecord.federation_id == FederationRecord.id)
        .where(EventRecord.id.in_(last))
    )
    return {str(name): str(head) for name, head in tx.session.execute(query)}
