"""The site's state directory: what survives a kill, readable by its owner alone.

    site.json            who this site is, and the coordinator's public key, pinned
    signing.key          its private key, made here (see keys.py)
    agreement.json       the specification it agreed to, pinned, and where its backbone file is
    receipts.jsonl       the coordinator's signed receipts, one a line: this site's proof of what it took
    progress.json        how far it has come
    serving.json         the version that answered predictions last
    personal/            parameters that never leave this machine (see personal.py)
    contexts/            encoded images (see context_store.py)
    training/            how far training has come in the live round (see checkpoints.py)
    outbox/              a finished update that is not yet acknowledged (see outbox.py)
    versions/            the model versions used last, named by digest
    lock                 held by the one process that runs the site

Rules:
1. The directory is 0700, its files 0600; a directory that others may read is refused, as ssh refuses such keys.
2. A file is replaced whole: written beside, flushed to the disk, renamed. A kill leaves the old or the new one.
3. The pinned digests never change. Another specification or backbone means another enrolment (promise P8).
"""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, ValidationError

from pfedbayespt.client.errors import StateError
from pfedbayespt.protocol import (
    CoordinatorIdentity,
    Digest,
    FederationSpecification,
    Message,
    Receipt,
    Slug,
    VersionCalibration,
)

Record = TypeVar("Record", bound=Message)


class Enrolment(Message):
    """Who this site is and where its coordinator answers."""

    format: Literal["pfedbayespt.site/2"] = "pfedbayespt.site/2"
    base_url: str
    proxy: str | None
    ca_file: str | None
    federation: Slug
    organisation: Slug
    site_id: str
    site_name: Slug
    coordinator: CoordinatorIdentity


class Agreement(Message):
    """What this site agreed to when it joined, and the backbone file it brought along."""

    format: Literal["pfedbayespt.agreement/1"] = "pfedbayespt.agreement/1"
    specification: FederationSpecification
    specification_digest: Digest
    backbone_file: str


class Progress(Message):
    """How far this site has come."""

    rounds_contributed: int = 0
    last_round_id: str | None = None
    refused_round_id: str | None = Field(default=None, description="The last round that refused an update.")
    class_counts: tuple[int, ...] | None = Field(
        default=None,
        description="Training images per class. They never leave this machine; their shares do where `label_shift` "
        "and `cross_fit_folds` are agreed on.",
    )
    last_metrics: dict[str, float] = Field(default={}, description="Of the last training or evaluation.")


class ServingVersion(Message):
    """The version that answered predictions when this site last asked."""

    number: int
    digest: Digest
    calibration: VersionCalibration | None = None


class StateDirectory:
    """One site's files. `create` makes the directory, `open` takes one that is there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> Self:
        """Make the directory, or take an empty one.

        Raises:
            StateError: it holds an enrolled site already.
        """
        if (path / "site.json").exists():
            raise StateError(
                f"{path} already holds an enrolled site; resume that one or choose another directory"
            )
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Take a directory that `create` made.

        Raises:
            StateError: no site is enrolled there, or others may read it.
        """
        identity = path / "site.json"
        if not identity.exists():
            raise StateError(f"{path} holds no enrolled site; enrol one first")
        for place in (path, identity):
            if place.stat().st_mode & 0o077:
                raise StateError(f"{place} may be read by others; allowed: its owner alone (chmod go-rwx)")
        return cls(path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process from running this site.

        Raises:
            StateError: another process runs it.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise StateError(f"another process runs the site in {self.path}") from error
        finally:
            os.close(descriptor)

    @property
    def enrolment(self) -> Enrolment:
        """Who this site is."""
        return self._read("site.json", Enrolment)

    def write_enrolment(self, enrolment: Enrolment) -> None:
        """Remember who this site is."""
        self._write("site.json", enrolment)

    @property
    def agreement(self) -> Agreement | None:
        """What the site agreed to; None until it has seen the specification."""
        return self._read_if_there("agreement.json", Agreement)

    def write_agreement(self, agreement: Agreement) -> None:
        """Pin what this site agrees to.

        Raises:
            StateError: it has agreed to another specification.
        """
        before = self.agreement
        if before is not None and before.specification_digest != agreement.specification_digest:
            raise StateError(f"{self.path} has agreed to {before.specification_digest} and cannot change")
        self._write("agreement.json", agreement)

    @property
    def progress(self) -> Progress:
        """How far the site has come."""
        return self._read_if_there("progress.json", Progress) or Progress()

    def update_progress(self, **changes: object) -> None:
        """Remember that the site has come further. Only the process that holds the lock may."""
        self._write("progress.json", self.progress.model_copy(update=changes))

    @property
    def serving(self) -> ServingVersion | None:
        """The version that answered predictions when this site last asked."""
        return self._read_if_there("serving.json", ServingVersion)

    def write_serving(self, serving: ServingVersion) -> None:
        """Remember which version answers predictions."""
        self._write("serving.json", serving)

    def keep_receipt(self, receipt: Receipt) -> None:
        """Add a receipt to those that are kept, and wait until it is on the disk.

        Raises:
            StateError: the disk is full or broken; nothing of it is kept.
        """
        file = self.path / "receipts.jsonl"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        before = os.fstat(descriptor).st_size
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(receipt.model_dump_json().encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            os.truncate(file, before)  # half a line would spoil the next one
            raise cannot_be_written(file, error) from error

    def remove(self) -> None:
        """Remove the directory with everything in it; who the site is goes last, so that this can be tried again.

        Raises:
            StateError: another process runs the site.
        """
        with self.locked():
            for place in self.path.iterdir():
                if place.is_dir():
                    shutil.rmtree(place)
                elif place.name != "site.json":
                    place.unlink()
            shutil.rmtree(self.path)

    def _read_if_there(self, name: str, record: type[Record]) -> Record | None:
        return self._read(name, record) if (self.path / name).exists() else None

    def _read(self, name: str, record: type[Record]) -> Record:
        try:
            return record.model_validate_json((self.path / name).read_bytes())
        except (OSError, ValidationError) as error:
            raise StateError(f"{self.path / name} cannot be read: {error}") from error

    def _write(self, name: str, record: Message) -> None:
        write_whole(self.path / name, record.model_dump_json(indent=2).encode())


def write_whole(file: Path, content: bytes) -> None:
    """Replace `file` by `content` so that a kill leaves the old or the new one, and only its owner may read it.

    Its folder is made if it is missing.

    Raises:
        StateError: the disk is full or broken; the old one is still there.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.new")
    try:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        write_through(beside, content)
        beside.replace(file)
        flush_folder(file.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)  # leave the disk no fuller than before
        raise cannot_be_written(file, error) from error


def cannot_be_written(place: Path, error: OSError) -> StateError:
    """Return what to raise when the disk is full or broken."""
    return StateError(
        f"{place} cannot be written: {error.strerror}; mend that and run the site again, it goes on where it was"
    )


def write_through(file: Path, content: bytes) -> None:
    """Write `content` and wait until it is on the disk."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until renames inside `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
