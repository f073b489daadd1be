"""An object store: outages are told as such, sweeps and puts keep out of each other's way."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import obstore
import pytest
from tests.contracts.test_rounds import training_round
from tests.object_store import store_url
from tests.server.harness import check, problem_of, running, settings_for

from pfedbayespt.protocol import digest_of_bytes
from pfedbayespt.server.blobs import BlobCorruptError, BlobMissingError, TemporaryBlob, open_store
from pfedbayespt.server.blobs.objects import ObjectBlobStore
from pfedbayespt.server.errors import StorageUnavailable

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def open_again(s3_endpoint: str, tmp_path: Path) -> Callable[[], ObjectBlobStore]:
    """Return what opens the same place as another process would."""
    url = store_url(s3_endpoint, f"objects-{uuid4().hex}")

    def opened() -> ObjectBlobStore:
        store = open_store(url, tmp_path)
        assert isinstance(store, ObjectBlobStore)
        return store

    return opened


@pytest.fixture
def store(open_again: Callable[[], ObjectBlobStore]) -> ObjectBlobStore:
    return open_again()


def put(store: ObjectBlobStore, content: bytes) -> str:
    with store.create() as blob:
        blob.write(content)
        store.put(blob)
        return blob.digest


def key_of(digest: str) -> str:
    digits = digest.removeprefix("sha256:")
    return f"sha256/{digits[:2]}/{digits}"


def test_a_blob_of_many_parts_is_read_back_by_another_process(
    open_again: Callable[[], ObjectBlobStore],
) -> None:
    content = b"pfedbayespt" * 2_000_000
    digest = put(open_again(), content)
    with open_again().open(digest, verify=True) as file:
        assert file.read() == content


def test_damage_is_found_at_the_first_reading_and_mended_by_putting_again(
    store: ObjectBlobStore, open_again: Callable[[], ObjectBlobStore]
) -> None:
    digest = put(store, b"precious")
    obstore.put(store._store, key_of(digest), b"Precious")
    with pytest.raises(BlobCorruptError, match=digest):
        open_again().open(digest)
    put(store, b"precious")
    assert open_again().open(digest, verify=True).read() == b"precious"


def test_verifying_reads_what_the_store_holds_and_not_the_copy(store: ObjectBlobStore) -> None:
    digest = put(store, b"precious")
    assert store.open(digest).read() == b"precious"
    obstore.put(store._store, key_of(digest), b"Precious")
    assert store.open(digest).read() == b"precious"
    with pytest.raises(BlobCorruptError, match=digest):
        store.open(digest, verify=True)


def test_blobs_are_as_old_as_the_store_says_whatever_the_clock_here(
    store: ObjectBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store, b"old")
    time.sleep(1.1)  # the store tells seconds
    for name in ("time", "time_ns"):
        monkeypatch.setattr(time, name, lambda: 4e9)
    assert list(store.aged(3600.0)) == []
    assert store.delete_if_aged(digest, 3600.0) is False
    assert list(store.aged(0.0)) == [digest]
    assert store.delete_if_aged(digest, 0.0) is True
    assert not store.exists(digest)
    assert store.delete_if_aged(digest, 0.0) is False


def test_a_put_while_a_sweep_removes_the_same_bytes_as_old_ones_is_not_undone(
    store: ObjectBlobStore, open_again: Callable[[], ObjectBlobStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store, b"fought over")
    sweeping = open_again()
    time_of = sweeping._time_of
    putting = threading.Thread(target=put, args=(store, b"fought over"))

    def put_after_the_age_was_read(key: str) -> Any:
        putting.start()
        putting.join(timeout=0.5)  # it uploads, and waits for the lock
        return time_of(key) + timedelta(days=2)

    monkeypatch.setattr(sweeping, "_time_of", put_after_the_age_was_read)
    assert sweeping.delete_if_aged(digest, 86400.0) is True
    putting.join()
    assert open_again().open(digest, verify=True).read() == b"fought over"


def test_two_sweeps_do_not_go_for_the_same_blob_and_a_dead_ones_lock_ends(
    store: ObjectBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = put(store, b"orphan")
    store._create(f"locks/{digest.removeprefix('sha256:')}")
    time.sleep(1.1)
    assert store.delete_if_aged(digest, 0.0) is False
    monkeypatch.setattr("pfedbayespt.server.blobs.objects._LOCK_SECONDS", 0.5)
    time.sleep(1.1)
    assert store.delete_if_aged(digest, 0.0) is True


def test_a_bucket_that_has_lost_everything_is_an_outage_and_no_missing_blob(store: ObjectBlobStore) -> None:
    digest = put(store, b"x")
    with pytest.raises(BlobMissingError):
        store.open(digest_of_bytes(b"never put"))
    for page in obstore.list(store._store):
        obstore.delete(store._store, [meta["path"] for meta in page])
    for operation in (store.open, store.exists, store.size_bytes):
        with pytest.raises(StorageUnavailable, match="bucket is gone"):
            operation(digest)


def test_a_store_that_does_not_answer_is_unavailable_whatever_is_asked(tmp_path: Path) -> None:
    store = open_store(store_url(NOBODY, "x"), tmp_path)
    digest = digest_of_bytes(b"x")
    for operation in (store.open, store.exists, store.size_bytes, store.delete):
        with pytest.raises(StorageUnavailable, match="try again"):
            operation(digest)
    with store.create() as blob, pytest.raises(StorageUnavailable):
        store.put(blob)
    store.check_sound()


@pytest.mark.parametrize(
    "url",
    [
        "s3://", "s3://key:secret@bucket/x", "s3://bucket?secret=1", "http://bucket/x", "gs://bucket", "file://host/x",
        "bucket",
    ],
)  # fmt: skip
def test_a_url_that_names_no_store_is_refused_and_says_what_is_allowed(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="s3://bucket/prefix"):
        open_store(url, tmp_path)


def test_a_folder_may_be_named_too(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/some%20where", tmp_path / "data")
    with store.create() as blob:
        blob.write(b"x")
        store.put(blob)
    assert (tmp_path / "some where" / "blobs").is_dir()


def test_while_the_store_is_away_nothing_is_acknowledged_and_callers_are_told_when_to_come_again(
    tmp_path: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = store_url(s3_endpoint, f"objects-{uuid4().hex}")
    with running(settings_for(tmp_path, blobs_url=url)) as coordinator:
        sites = training_round(coordinator)
        round_ = sites[0].assignment()["round"]
        content = sites[0].update(round_, 1.0, 10)
        before = coordinator.dump()

        def away(*_: object, **__: object) -> Any:
            raise StorageUnavailable("the object store does not answer as it should; try again")

        with monkeypatch.context() as outage:
            for name in ("put", "ping", "open"):
                outage.setattr(ObjectBlobStore, name, away)
            refused = sites[0].submit_file(round_["round_id"], content)
            assert problem_of(refused) == "overloaded"
            assert int(refused.headers["retry-after"]) >= 1
            assert coordinator.http.get("/readyz").status_code == 503
            assert coordinator.http.get("/livez").status_code == 200
            assert coordinator.dump() == before
        check(sites[0].submit_file(round_["round_id"], content), 201)
        for site in sites[1:]:
            site.train()
        with monkeypatch.context() as outage:
            outage.setattr(ObjectBlobStore, "open", away)
            coordinator.tick()
            coordinator.tick()
        coordinator.settle()
        assert [part["digest"] for part in coordinator.versions()[0]["inputs"]].count(
            digest_of_bytes(content)
        )


def test_a_temporary_blob_leaves_nothing_behind(store: ObjectBlobStore, tmp_path: Path) -> None:
    with store.create() as blob:
        assert isinstance(blob, TemporaryBlob)
        blob.write(b"x")
        assert list((tmp_path / "temporary").iterdir()) == []
    assert store.discard_leftovers() == 0
