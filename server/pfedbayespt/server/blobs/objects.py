"""Blobs in an S3-compatible object store.

    <prefix>/sha256/ab/ab12...   the blobs
    <prefix>/locks/ab12...       a sweep is about to remove that blob; made with `If-None-Match: *`
    <prefix>/store               says that this is a store of ours
    <prefix>/clock               written anew to learn the store's time

How a blob that is put while a sweep removes an old one of the same bytes survives: the sweep takes the lock, looks
at the age, removes, and lets go. Whoever puts over a blob that is there looks for the lock afterwards, waits for it
to go, and puts once more if the blob went with it. Either the sweep sees the new age or the other sees the lock;
this needs reads that see every finished write, as S3 and its likes promise. Who puts holds no lock, so that none is
left behind by its death; a sweep's lock that is older than `_LOCK_SECONDS` is its dead owner's.

"Not found" is believed only while the object `store` is found: a bucket that is gone, or another one, is an outage.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from urllib.parse import parse_qsl, urlsplit

import obstore
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from pfedbayespt.protocol import Digest
from pfedbayespt.server.blobs.cache import FileCache, reader
from pfedbayespt.server.blobs.port import (
    DIGEST,
    BlobCorruptError,
    BlobMissingError,
    TemporaryBlob,
    full_disk_refused,
    hex_digits,
)
from pfedbayespt.server.errors import StorageUnavailable
from pfedbayespt.server.failpoints import failpoint

if TYPE_CHECKING:
    from obstore.store import S3Config

_PART_BYTES: Final = 8 * 2**20
_PARTS_AT_ONCE: Final = 2
_CHUNK_BYTES: Final = 2**20
_LOCK_SECONDS: Final = 60.0
_LOCK_WAIT_SECONDS: Final = 5.0
_OPTIONS: Final = frozenset({"endpoint", "region"})
_BLOBS, _LOCKS, _STORE, _CLOCK = "sha256", "locks", "store", "clock"
_log = structlog.get_logger(__name__)


class ObjectBlobStore:
    """Blobs in the bucket of `url`; temporary ones and copies are files without a name in the folder `scratch`.

    Raises:
        ValueError: the URL holds something else than a bucket, a prefix, an endpoint and a region.
    """

    def __init__(self, url: str, scratch: Path) -> None:
        self._store = _connect(url)
        self._scratch = scratch
        self._cache = FileCache()
        self._is_marked = False
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)

    @contextmanager
    def create(self) -> Iterator[TemporaryBlob]:
        """Open a temporary blob in a file without a name."""
        with self._scratch_file() as file:
            yield TemporaryBlob(file)

    def put(self, blob: TemporaryBlob) -> None:
        """Keep the blob: upload it, in parts if it is large."""
        key = _key(blob.digest)
        with _outages_told():
            self._mark()
            was_there = self._head(key) is not None
            failpoint("blob.before_fsync")
            self._upload(key, blob)
            if was_there:
                self._survive_sweep(blob)
        failpoint("blob.after_rename")

    def ping(self) -> None:
        """Return if the store answers; mark it as ours first."""
        with _outages_told():
            self._check_marked()

    def check_sound(self) -> None:
        """Return."""

    def open(self, digest: Digest, *, verify: bool = False) -> BinaryIO:
        """Open a local copy for reading: every copy is compared with its digest; `verify` makes a new one."""
        key = _key(digest)
        return (None if verify else self._cache.open(digest)) or self._download(digest, key)

    def exists(self, digest: Digest) -> bool:
        """Return whether there is an object."""
        return self._find(_key(digest)) is not None

    def size_bytes(self, digest: Digest) -> int:
        """Return the object's size."""
        meta = self._find(_key(digest))
        if meta is None:
            raise BlobMissingError(f"there is no blob {digest}")
        return int(meta["size"])

    def delete(self, digest: Digest) -> None:
        """Remove the object, if it is there."""
        key = _key(digest)
        with _outages_told():
            obstore.delete(self._store, key)
        self._cache.drop(digest)

    def aged(self, seconds: float) -> Iterator[Digest]:
        """Yield the blobs whose objects are older than that."""
        with _outages_told():
            self._upload_empty(_CLOCK)
            before = self._time_of(_CLOCK) - timedelta(seconds=seconds)
            for page in obstore.list(self._store, _BLOBS):
                for meta in page:
                    digest = f"sha256:{Path(meta['path']).name}"
                    if DIGEST.fullmatch(digest) and meta["last_modified"] < before:
                        yield digest

    def delete_if_aged(self, digest: Digest, seconds: float) -> bool:
        """Remove the object if it is older than that; not while another sweep is at it."""
        key, lock = _key(digest), _lock(digest)
        with _outages_told():
            if not self._create(lock) and not self._take_over(lock):
                return False
            try:
                meta, now = self._head(key), self._time_of(lock)
                is_aged = meta is not None and meta["last_modified"] < now - timedelta(seconds=seconds)
                if is_aged:
                    obstore.delete(self._store, key)
                    self._cache.drop(digest)
            finally:
                obstore.delete(self._store, lock)
        return is_aged

    def discard_leftovers(self, seconds: float = 0.0) -> int:  # noqa: ARG002  (what has no name is gone)
        """Return 0."""
        return 0

    def _scratch_file(self) -> BinaryIO:
        with full_disk_refused():
            return tempfile.TemporaryFile(dir=self._scratch)

    def _upload(self, key: str, blob: TemporaryBlob) -> None:
        blob.file.seek(0)
        obstore.put(
            self._store,
            key,
            blob.file,
            use_multipart=blob.size_bytes > _PART_BYTES,
            chunk_size=_PART_BYTES,
            max_concurrency=_PARTS_AT_ONCE,
        )

    def _upload_empty(self, key: str) -> None:
        obstore.put(self._store, key, b"")

    def _survive_sweep(self, blob: TemporaryBlob) -> None:
        """Return once the blob, which was there before it was put, can not be removed as an old one any more."""
        give_up_at = time.monotonic() + _LOCK_WAIT_SECONDS
        while self._is_locked(_lock(blob.digest)):
            if time.monotonic() > give_up_at:
                raise StorageUnavailable("the same file is being removed as an old one; try again")
            time.sleep(0.05)
        if self._head(_key(blob.digest)) is None:
            self._upload(_key(blob.digest), blob)

    def _is_locked(self, lock: str) -> bool:
        meta = self._head(lock)
        if meta is None:
            return False
        self._upload_empty(_CLOCK)
        return bool(self._time_of(_CLOCK) - meta["last_modified"] < timedelta(seconds=_LOCK_SECONDS))

    def _take_over(self, lock: str) -> bool:
        """Take the lock of a sweep that died; return whether this process has it now."""
        if self._is_locked(lock):
            return False
        obstore.delete(self._store, lock)
        return self._create(lock)

    def _create(self, key: str) -> bool:
        """Make an empty object unless there is one; return whether there was none."""
        try:
            obstore.put(self._store, key, b"", mode="create")
        except AlreadyExistsError:
            return False
        return True

    def _download(self, digest: Digest, key: str) -> BinaryIO:
        with ExitStack() as undo:
            file = undo.enter_context(self._scratch_file())
            actual = self._fetch(digest, key, file)
            if actual != digest:
                self._cache.drop(digest)
                raise BlobCorruptError(f"blob {digest} is damaged: its bytes have {actual}")
            undo.pop_all()
        opened = reader(file)
        self._cache.add(digest, file)
        return opened

    def _fetch(self, digest: Digest, key: str, file: BinaryIO) -> Digest:
        """Write the object's content into `file`, and return its digest."""
        hashed = hashlib.sha256()
        with _outages_told(), full_disk_refused():
            self._mark()
            try:
                found = obstore.get(self._store, key)
            except FileNotFoundError:
                self._check_marked()
                raise BlobMissingError(f"there is no blob {digest}") from None
            for chunk in found.stream(min_chunk_size=_CHUNK_BYTES):
                hashed.update(chunk)
                file.write(chunk)
            file.flush()
        return f"sha256:{hashed.hexdigest()}"

    def _find(self, key: str) -> Any:
        """Return the object's metadata, None if there is surely none."""
        with _outages_told():
            meta = self._head(key)
            if meta is None:
                self._check_marked()
            return meta

    def _head(self, key: str) -> Any:
        try:
            return obstore.head(self._store, key)
        except FileNotFoundError:
            return None

    def _time_of(self, key: str) -> datetime:
        meta = self._head(key)
        if meta is None:
            raise StorageUnavailable(f"the object store has lost {key!r}, which was just written")
        written_at: datetime = meta["last_modified"]
        return written_at

    def _mark(self) -> None:
        """Say that this is a store of ours, once per process."""
        if not self._is_marked:
            self._create(_STORE)
            self._is_marked = True

    def _check_marked(self) -> None:
        self._mark()
        if self._head(_STORE) is None:
            raise StorageUnavailable("the bucket is gone, or is another one; nothing was acknowledged")


def _key(digest: Digest) -> str:
    digits = hex_digits(digest)
    return f"{_BLOBS}/{digits[:2]}/{digits}"


def _lock(digest: Digest) -> str:
    return f"{_LOCKS}/{hex_digits(digest)}"


def _connect(url: str) -> S3Store:
    """Return the bucket; all that the URL does not say comes from the environment (`AWS_...`)."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    if parts.scheme != "s3" or not parts.hostname or "@" in parts.netloc or options.keys() - _OPTIONS:
        raise ValueError(
            "an object store's URL must be s3://bucket/prefix, with ?endpoint=https://host:port&region=name where "
            "it is not Amazon's; credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    endpoint = options.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL", "")
    config: S3Config = {"checksum_algorithm": "SHA256", **options}  # type: ignore[typeddict-item]
    return S3Store(
        parts.hostname,
        prefix=parts.path.strip("/") or None,
        config=config,
        client_options={
            "allow_http": endpoint.startswith("http://"),
            "connect_timeout": "3s",
            "read_timeout": "20s",
            "timeout": "600s",
        },
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=10)},
    )


@contextmanager
def _outages_told() -> Iterator[None]:
    """Have every failure of the store but "not found" told as StorageUnavailable: what it holds is unknown."""
    try:
        yield
    except FileNotFoundError as error:
        raise StorageUnavailable(
            "the object store has no such bucket; its operator must see to it"
        ) from error
    except BaseError as error:
        _log.warning("object_store_failed", error=str(error).partition("\n")[0][:500])
        raise StorageUnavailable("the object store does not answer as it should; try again") from error
