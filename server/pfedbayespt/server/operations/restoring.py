"""Putting a backup back: rules 3 and 4 of the package."""

import shutil
from contextlib import ExitStack
from pathlib import Path

from pfedbayespt.server import ownership, schema
from pfedbayespt.server.blobs import BlobError, BlobStore, FolderBlobStore, open_store
from pfedbayespt.server.database import Database
from pfedbayespt.server.operations import dumps
from pfedbayespt.server.operations.backups import copy_blob
from pfedbayespt.server.operations.errors import OperationError
from pfedbayespt.server.operations.manifest import (
    KEY_FILE,
    BackupManifest,
    digest_of_file,
    read_manifest,
    write_durably,
)
from pfedbayespt.server.settings import Settings


def restore(settings: Settings, folder: Path, *, force: bool = False) -> BackupManifest:
    """Make the coordinator of `settings`, which must not run, what the backup in `folder` holds.

    Args:
        settings: where to put it; the kind of database must be the backup's.
        folder: the backup.
        force: replace a database that is there.

    Raises:
        OperationError: the place is not empty, or the backup is damaged, incomplete or another kind of database's.
        FolderInUseError: a coordinator runs there.
    """
    manifest = read_manifest(folder)
    snapshot = _checked_snapshot(folder, manifest)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = Database(settings.effective_database_url)
    with ExitStack() as stack:
        stack.callback(database.close)
        if database.is_sqlite:
            stack.enter_context(ownership.sole_owner(settings.data_dir))
        _check_place(database, manifest, force=force)
        database.make_folder()
        _put_all(FolderBlobStore(folder), open_store(settings.blobs_url, settings.data_dir), manifest)
        _put_key(folder, settings.effective_signing_key_file, manifest, force=force)
        database.close()
        dumps.load(database, snapshot)
        if database.is_sqlite:
            schema.upgrade(database)
    return manifest


def _checked_snapshot(folder: Path, manifest: BackupManifest) -> Path:
    snapshot = folder / manifest.database_file
    if not snapshot.is_file() or digest_of_file(snapshot) != manifest.database_digest:
        raise OperationError(f"{snapshot} is missing or damaged: it is not {manifest.database_digest}")
    return snapshot


def _check_place(database: Database, manifest: BackupManifest, *, force: bool) -> None:
    kind = "sqlite" if database.is_sqlite else "postgresql"
    if kind != manifest.database_kind:
        raise OperationError(
            f"the backup is of a {manifest.database_kind} database, these settings name {kind}"
        )
    if not force and not dumps.is_empty(database):
        raise OperationError(
            "the database is not empty; a restore would replace all that it holds. Add --force to do so"
        )


def _put_all(source: BlobStore, target: BlobStore, manifest: BackupManifest) -> None:
    problems = []
    for digest in manifest.blobs:
        try:
            copy_blob(source, target, digest)
        except BlobError as error:
            problems.append(str(error))
    if problems:
        raise OperationError(
            f"the backup is not complete; the database was not touched: {'; '.join(problems[:5])}"
        )


def _put_key(folder: Path, file: Path, manifest: BackupManifest, *, force: bool) -> None:
    """Put the signing key in its place; one that is there already, and another one, is kept beside."""
    kept = folder / KEY_FILE
    if manifest.key_id is None:
        if not file.exists():
            raise OperationError(
                f"the backup was made without the signing key: put the coordinator's into {file}"
            )
        return
    content = kept.read_bytes()
    if file.exists() and file.read_bytes() != content:
        if not force:
            raise OperationError(f"{file} holds another key than the backup; add --force to replace it")
        shutil.copy2(file, file.with_name(f"{file.name}.replaced"))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_durably(file, content)
