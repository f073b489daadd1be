"""Where tensor files are kept: content-addressed, immutable, durable before they are acknowledged.

Rules:
1. A blob's name is the SHA-256 of its bytes; nothing a caller sends ever becomes a path.
2. `put` returns once the blob survives a power cut. In a folder: fsync(file), rename, fsync(folder), in this order,
   and the folder's own entry in its parent too. In an object store: it has acknowledged the whole object, whose
   SHA-256 was sent with it. Readers see a whole blob or none.
3. Putting a blob again is harmless, and mends one that was damaged.
4. A failed fsync is never tried again: the kernel may have dropped the pages and would report success. The store
   tells `on_broken`, which ends a server's process, and takes nothing more. A full disk is different: it is refused
   as such. An object store that does not answer is different again: that says nothing about what it holds, so it is
   never taken for a missing or damaged blob, and whoever asked may ask again.
5. What a crash left behind is removed once it is old: files in `temporary/`, and blobs that no row names (the
   worker's sweep). `put` gives a blob the present time, and a lock keeps it and a deletion apart, across processes
   too; so a blob that was just put is never taken for an old one of the same bytes. Ages are told by the time that
   the file system or the object store gives, whatever the machine's clock says.
"""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pfedbayespt.server.blobs.folder import FolderBlobStore
from pfedbayespt.server.blobs.memory import MemoryBlobStore
from pfedbayespt.server.blobs.port import (
    BlobCorruptError,
    BlobError,
    BlobMissingError,
    BlobStore,
    OnBroken,
    StorageBrokenError,
    TemporaryBlob,
    leave_it,
)

__all__ = [
    "BlobCorruptError",
    "BlobError",
    "BlobMissingError",
    "BlobStore",
    "FolderBlobStore",
    "MemoryBlobStore",
    "OnBroken",
    "StorageBrokenError",
    "TemporaryBlob",
    "leave_it",
    "open_store",
]


def open_store(url: str | None, data_dir: Path, on_broken: OnBroken = leave_it) -> BlobStore:
    """Return the store at `url`; None: the folder `data_dir`, which otherwise holds temporary files only.

    Args:
        url: `file:///folder`, or `s3://bucket/prefix?endpoint=http://host:port&region=name`, whose credentials come
            from the usual variables (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` ...), never from the URL.
        data_dir: of this process.
        on_broken: told of a failed fsync.

    Raises:
        ValueError: the URL is of a kind that is not supported.
        RuntimeError: the packages for it are not installed.
    """
    if url is None:
        return FolderBlobStore(data_dir, on_broken)
    parts = urlsplit(url)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FolderBlobStore(Path(unquote(parts.path)), on_broken)
    if parts.scheme != "s3":
        raise ValueError(
            f"blob store {parts.scheme}://{parts.hostname or ''} is not supported; "
            "allowed: s3://bucket/prefix?endpoint=https://host:port and file:///folder"
        )
    try:
        from pfedbayespt.server.blobs.objects import ObjectBlobStore  # here, as few need its packages
    except ModuleNotFoundError as error:
        raise RuntimeError(f"an object store needs pip install 'pfedbayespt[s3]': {error}") from error
    return ObjectBlobStore(url, data_dir / "temporary")
