"""Blob stores: one contract for all of them, and the folder's promise to survive a power cut."""

import errno
import hashlib
import io
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.object_store import store_url

from pfedbayespt.server.blobs import (
    BlobCorruptError,
    BlobMissingError,
    BlobStore,
    FolderBlobStore,
    MemoryBlobStore,
    StorageBrokenError,
    TemporaryBlob,
    folder,
    open_store,
)
from pfedbayespt.server.errors import StorageExhausted

ABSENT = "sha256:" + "0" * 64


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def put(store: BlobStore, content: bytes) -> str:
    with store.create() as blob:
        blob.write(content)
        store.put(blob)
        return blob.digest


def read(store: BlobStore, digest: str) -> bytes:
    with store.open(digest) as file:
        return file.read()


def files_under(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and path.name != "sweep.lock")


def file_of(root: Path, digest: str) -> Path:
    digits = digest.removeprefix("sha256:")
    return root / "blobs" / "sha256" / digits[:2] / digits


# The contract, on every store


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    if request.param == "s3":
        endpoint = request.getfixturevalue("s3_endpoint")
        return open_store(store_url(endpoint, f"contract-{secrets.token_hex(8)}"), tmp_path)
    return FolderBlobStore(tmp_path / "data") if request.param == "folder" else MemoryBlobStore()


@pytest.mark.parametrize("content", [b"", b"x", b"pfedbayespt" * 300_000], ids=["empty", "one byte", "3 MB"])
def test_what_was_put_is_read_back_under_its_digest(store: BlobStore, content: bytes) -> None:
    assert put(store, content) == digest_of(content)
    assert read(store, digest_of(content)) == content
    assert store.size_bytes(digest_of(content)) == len(content)
    assert store.exists(digest_of(content))


def test_chunks_are_counted_and_hashed_as_they_come(store: BlobStore) -> None:
    with store.create() as blob:
        assert (blob.size_bytes, blob.digest) == (0, digest_of(b""))
        blob.write(b"ab")
        blob.write(bytearray(b"cd"))
        blob.write(memoryview(b"ef"))
        assert (blob.size_bytes, blob.digest) == (6, digest_of(b"abcdef"))
        store.put(blob)
    assert read(store, digest_of(b"abcdef")) == b"abcdef"


def test_a_temporary_blob_can_be_read_before_and_after_it_is_put(store: BlobStore) -> None:
    with store.create() as blob:
        blob.write(b"header")
        blob.file.seek(0)
        assert blob.file.read(3) == b"hea"
        blob.write(b"+tail")
        store.put(blob)
        blob.file.seek(0)
        assert blob.file.read() == b"header+tail"


def test_a_blob_that_was_not_put_is_not_kept(store: BlobStore) -> None:
    with store.create() as blob:
        blob.write(b"abandoned")
    assert not store.exists(digest_of(b"abandoned"))


def test_a_blob_abandoned_by_an_error_is_not_kept(store: BlobStore) -> None:
    def fail_while_writing() -> None:
        with store.create() as blob:
            blob.write(b"abandoned")
            raise RuntimeError("changed my mind")

    with pytest.raises(RuntimeError, match="changed my mind"):
        fail_while_writing()
    assert not store.exists(digest_of(b"abandoned"))


def test_putting_the_same_bytes_again_changes_nothing(store: BlobStore) -> None:
    assert put(store, b"twice") == put(store, b"twice")
    assert read(store, digest_of(b"twice")) == b"twice"


def test_a_reader_keeps_its_blob_while_it_is_put_again_or_deleted(store: BlobStore) -> None:
    digest = put(store, b"steady")
    with store.open(digest) as file:
        put(store, b"steady")
        store.delete(digest)
        assert file.read() == b"steady"


def test_an_open_blob_is_seekable(store: BlobStore) -> None:
    with store.open(put(store, b"0123456789")) as file:
        assert file.seek(0, io.SEEK_END) == 10
        file.seek(4)
        assert file.read(2) == b"45"


def test_a_verified_blob_is_read_from_its_start(store: BlobStore) -> None:
    with store.open(put(store, b"whole"), verify=True) as file:
        assert file.read() == b"whole"


def test_a_blob_that_is_not_there_is_missing(store: BlobStore) -> None:
    assert not store.exists(ABSENT)
    with pytest.raises(BlobMissingError, match=ABSENT):
        store.open(ABSENT)
    with pytest.raises(BlobMissingError, match=ABSENT):
        store.size_bytes(ABSENT)


def test_a_deleted_blob_is_missing_and_deleting_it_again_is_harmless(store: BlobStore) -> None:
    digest = put(store, b"short life")
    store.delete(digest)
    store.delete(digest)
    assert not store.exists(digest)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "sha256:",
        "0" * 64,
        "sha256:" + "0" * 63,
        "sha256:" + "A" * 64,
        "sha256:../" + "0" * 61,
        ABSENT + "\n",
    ],
)
def test_what_is_not_a_digest_never_reaches_the_storage(store: BlobStore, name: str) -> None:
    for operation in (store.open, store.exists, store.size_bytes, store.delete):
        with pytest.raises(ValueError, match="64 lower-case hexadecimal digits"):
            operation(name)


def test_a_healthy_store_takes_blobs(store: BlobStore) -> None:
    store.ping()


def test_many_threads_may_put_the_same_and_different_blobs(store: BlobStore) -> None:
    contents = [f"blob {number % 10}".encode() for number in range(40)]
    threads = [threading.Thread(target=put, args=(store, content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(read(store, digest_of(content)) == content for content in contents)


# The folder: durable before it is acknowledged


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def syscalls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The order of fsyncs and renames, by the names of what they act on."""
    calls: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.replace

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        calls.append(("fsync", Path(f"/proc/self/fd/{descriptor}").readlink().name))

    def recorded_rename(source: str, target: str) -> None:
        rename(source, target)
        calls.append(("rename", Path(target).name))

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_rename)
    return calls


def test_the_first_blob_of_a_shard_is_synced_renamed_and_its_folders_synced(
    root: Path, syscalls: list[tuple[str, str]]
) -> None:
    store = FolderBlobStore(root)
    syscalls.clear()
    with store.create() as blob:
        blob.write(b"x")
        temporary = Path(blob.file.name).name
        store.put(blob)
    digits = digest_of(b"x").removeprefix("sha256:")
    assert syscalls == [
        ("fsync", temporary),
        ("fsync", "sha256"),
        ("rename", digits),
        ("fsync", digits[:2]),
    ]


def test_a_later_blob_of_a_shard_syncs_file_then_renames_then_syncs_the_folder(
    root: Path, syscalls: list[tuple[str, str]]
) -> None:
    store = FolderBlobStore(root)
    put(store, b"x")
    syscalls.clear()
    put(store, b"x")
    assert [name for name, _ in syscalls] == ["fsync", "rename", "fsync"]


def test_a_shard_made_by_another_process_is_synced_before_it_is_trusted(
    root: Path, syscalls: list[tuple[str, str]]
) -> None:
    store = FolderBlobStore(root)
    file_of(root, digest_of(b"x")).parent.mkdir()
    syscalls.clear()
    put(store, b"x")
    assert ("fsync", "sha256") in syscalls


def test_new_folders_are_synced_into_their_parents(root: Path, syscalls: list[tuple[str, str]]) -> None:
    FolderBlobStore(root)
    assert [name for _, name in syscalls] == [root.parent.name, "data", "blobs", "data"]


def test_what_is_renamed_is_complete(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    rename = os.replace

    def look_then_rename(source: str, target: str) -> None:
        seen.append(Path(source).read_bytes())
        rename(source, target)

    monkeypatch.setattr(os, "replace", look_then_rename)
    put(FolderBlobStore(root), b"all of it")
    assert seen == [b"all of it"]


def test_only_whole_blobs_remain_and_only_the_owner_may_read_their_folder(root: Path) -> None:
    store = FolderBlobStore(root)
    digest = put(store, b"kept")
    with store.create() as blob:
        blob.write(b"dropped")
    assert files_under(root) == [file_of(root, digest)]
    assert (root / "blobs").stat().st_mode & 0o077 == 0
    assert (root / "temporary").stat().st_mode & 0o077 == 0


def test_a_new_process_finds_the_blobs_of_the_old_one(root: Path) -> None:
    digest = put(FolderBlobStore(root), b"kept")
    assert read(FolderBlobStore(root), digest) == b"kept"


def test_damage_on_disk_is_found_by_verifying_and_mended_by_putting_again(root: Path) -> None:
    store = FolderBlobStore(root)
    digest = put(store, b"precious")
    file_of(root, digest).write_bytes(b"Precious")
    assert read(store, digest) == b"Precious"
    with pytest.raises(BlobCorruptError, match=digest):
        store.open(digest, verify=True)
    put(store, b"precious")
    with store.open(digest, verify=True) as file:
        assert file.read() == b"precious"


def test_leftovers_of_a_crash_are_discarded_and_blobs_are_not(root: Path) -> None:
    store = FolderBlobStore(root)
    digest = put(store, b"kept")
    (root / "temporary" / "0123.partial").write_bytes(b"half an upd")
    assert FolderBlobStore(root).discard_leftovers() == 1
    assert files_under(root) == [file_of(root, digest)]


def test_a_blob_is_as_old_as_its_last_put(root: Path) -> None:
    store = FolderBlobStore(root)
    digest = put(store, b"put twice")
    os.utime(file_of(root, digest), (0, 0))
    assert list(store.aged(60.0)) == [digest]
    put(store, b"put twice")
    assert list(store.aged(60.0)) == []
    assert store.delete_if_aged(digest, 60.0) is False
    os.utime(file_of(root, digest), (0, 0))
    assert store.delete_if_aged(digest, 60.0) is True
    assert not store.exists(digest)
    assert store.delete_if_aged(digest, 60.0) is False


def test_a_blob_that_was_long_in_the_making_is_as_young_as_its_put(root: Path) -> None:
    store = FolderBlobStore(root)
    with store.create() as blob:
        blob.write(b"written last week")
        os.utime(blob.file.name, (0, 0))
        store.put(blob)
    assert list(store.aged(60.0)) == []


def test_a_wrong_clock_on_the_machine_makes_no_blob_old(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderBlobStore(root)
    digest = put(store, b"young")
    for name in ("time", "monotonic", "time_ns"):
        monkeypatch.setattr(time, name, lambda: 4e9)
    assert list(store.aged(60.0)) == []
    assert store.delete_if_aged(digest, 60.0) is False


def test_a_put_waits_for_a_deletion_of_the_same_bytes_and_is_not_undone_by_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores on one folder, as two processes have; the put comes when the blob was found to be old."""
    putting, deleting = FolderBlobStore(root), FolderBlobStore(root)
    digest = put(putting, b"fought over")
    os.utime(file_of(root, digest), (0, 0))
    thread = threading.Thread(target=put, args=(putting, b"fought over"))

    def found_old(path: Path) -> float:
        monkeypatch.undo()
        modified_at = folder._modified_at(path)
        thread.start()
        thread.join(timeout=0.5)  # it cannot end while the deletion goes on
        return modified_at

    monkeypatch.setattr(folder, "_modified_at", found_old)
    assert deleting.delete_if_aged(digest, 60.0) is True
    thread.join()
    assert read(putting, digest) == b"fought over"


# The folder: what happens when the disk fails


def failing(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("operation", ["replace", "fsync", "mkdir"])
def test_a_full_disk_is_refused_as_such_keeps_nothing_and_recovers(
    root: Path, monkeypatch: pytest.MonkeyPatch, operation: str, code: int
) -> None:
    store = FolderBlobStore(root)
    with monkeypatch.context() as broken:
        broken.setattr(os, operation, failing(code))
        with pytest.raises(StorageExhausted, match="full"):
            put(store, b"x")
    assert not store.exists(digest_of(b"x"))
    assert files_under(root) == []
    assert read(store, put(store, b"x")) == b"x"


def test_a_disk_that_fills_up_while_writing_is_refused_as_such() -> None:
    with Path("/dev/full").open("r+b", buffering=0) as full, pytest.raises(StorageExhausted, match="full"):
        TemporaryBlob(full).write(b"x")


def test_a_failed_fsync_of_the_file_is_never_tried_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderBlobStore(root)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(StorageBrokenError, match="Input/output error"):
            put(store, b"x")
    assert not store.exists(digest_of(b"x"))
    with pytest.raises(StorageBrokenError, match="restart"):
        put(store, b"x")
    with pytest.raises(StorageBrokenError, match="restart"):
        store.ping()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_fsync_of_the_folder_is_never_tried_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store = FolderBlobStore(root)
    fsync = os.fsync

    def only_files(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            failing(code)()
        fsync(descriptor)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", only_files)
        with pytest.raises(StorageBrokenError, match="fsync failed"):
            put(store, b"x")
    with pytest.raises(StorageBrokenError, match="restart"):
        put(store, b"y")


def test_a_broken_store_still_reads(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FolderBlobStore(root)
    digest = put(store, b"kept")
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(StorageBrokenError):
        put(store, b"x")
    assert read(store, digest) == b"kept"


def test_another_error_of_the_system_is_not_mistaken_for_a_full_disk(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderBlobStore(root)
    monkeypatch.setattr(os, "replace", failing(errno.EACCES))
    with pytest.raises(PermissionError):
        put(store, b"x")
