"""Backup, destruction, restore; what verifying finds; what collecting garbage leaves. On both databases."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, make_url, text
from tests.contracts.conftest import create_database
from tests.contracts.test_rounds import training_round
from tests.contracts.test_sweeping import put
from tests.object_store import store_url
from tests.server.harness import Coordinator, check, running, settings_for

from pfedbayespt.server.database import Database
from pfedbayespt.server.operations import (
    OperationError,
    backup,
    collect_garbage,
    restore,
    verify,
    verify_backup,
)
from pfedbayespt.server.ownership import FolderInUseError
from pfedbayespt.server.settings import Settings


@pytest.fixture
def elsewhere(settings: Settings, tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[], Settings]:
    """Return what makes an empty place for the same kind of coordinator."""

    def empty_place() -> Settings:
        url = settings.database_url and create_database(request.getfixturevalue("postgres_url"))
        return settings.model_copy(update={"data_dir": tmp_path / "elsewhere", "database_url": url})

    return empty_place


def destroy(settings: Settings) -> None:
    shutil.rmtree(settings.data_dir)
    if settings.database_url is not None:
        url = make_url(settings.database_url)
        engine = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {url.database} WITH (FORCE)"))
        engine.dispose()


def path_of(folder: Path, digest: str) -> Path:
    digits = digest.removeprefix("sha256:")
    return folder / "blobs" / "sha256" / digits[:2] / digits


def test_a_round_goes_on_after_everything_between_backup_and_restore_was_destroyed(
    settings: Settings, elsewhere: Callable[[], Settings], tmp_path: Path
) -> None:
    kept = tmp_path / "backup"
    with running(settings) as coordinator:
        sites = training_round(coordinator)
        round_ = sites[0].assignment()["round"]
        content = sites[0].update(round_, 1.0, 10)
        receipt = check(sites[0].submit_file(round_["round_id"], content), 201)
        report = backup(settings, kept)
        before = coordinator.dump()
    assert report.problems == ()
    assert verify_backup(kept).problems == ()
    destroy(settings)

    place = elsewhere()
    restore(place, kept)
    shutil.rmtree(kept)
    with running(place) as coordinator:
        assert coordinator.dump() == before
        for site in sites:
            site.http = coordinator.http
            site.log_in()
        assert check(sites[0].submit_file(round_["round_id"], content), 200) == receipt
        start = coordinator.parameters(coordinator.versions()[0]["version_number"])
        sites[1].train(3.0, num_examples=10)
        coordinator.settle()
        version = coordinator.versions()[0]
        assert receipt["digest"] in {part["digest"] for part in version["inputs"]}
        moved = coordinator.parameters(version["version_number"])["head.weight"] - start["head.weight"]
        np.testing.assert_allclose(moved, 2.0, rtol=1e-6)
    assert verify(place).problems == ()


def test_a_later_backup_copies_what_is_new_and_replaces_the_snapshot(
    coordinator: Coordinator, settings: Settings, tmp_path: Path
) -> None:
    sites = training_round(coordinator)
    first = backup(settings, tmp_path / "backup")
    assert first.copied == len(first.manifest.blobs)
    sites[0].train()
    second = backup(settings, tmp_path / "backup")
    assert second.copied == 1
    assert second.manifest.audit_heads != first.manifest.audit_heads
    assert [path.name for path in (tmp_path / "backup").glob("database-*")] == [second.manifest.database_file]
    assert verify_backup(tmp_path / "backup").blobs == len(second.manifest.blobs)


def test_a_backup_that_breaks_off_leaves_the_one_before_it_whole(
    coordinator: Coordinator, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = training_round(coordinator)
    first = backup(settings, tmp_path / "backup").manifest
    sites[0].train()
    monkeypatch.setattr("pfedbayespt.server.operations.backups.write_durably", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        backup(settings, tmp_path / "backup")
    monkeypatch.undo()
    report = verify_backup(tmp_path / "backup")
    assert (report.problems, report.blobs) == ((), len(first.blobs))


def test_nothing_is_restored_over_what_is_there_unless_it_is_forced(
    coordinator: Coordinator, settings: Settings, tmp_path: Path
) -> None:
    training_round(coordinator)
    backup(settings, tmp_path / "backup")
    refusal = FolderInUseError if settings.database_url is None else OperationError
    with pytest.raises(refusal):
        restore(settings, tmp_path / "backup")


def test_a_forced_restore_brings_back_the_past_and_keeps_the_key_it_replaces(
    settings: Settings, tmp_path: Path
) -> None:
    with running(settings) as coordinator:
        sites = training_round(coordinator)
        backup(settings, tmp_path / "backup")
        before = coordinator.dump()
        sites[0].train()
    key = settings.effective_signing_key_file
    original = key.read_bytes()
    key.write_bytes(b"another key")
    with pytest.raises(OperationError, match="--force"):
        restore(settings, tmp_path / "backup")
    restore(settings, tmp_path / "backup", force=True)
    assert key.read_bytes() == original
    assert key.with_name(f"{key.name}.replaced").read_bytes() == b"another key"
    with running(settings) as coordinator:
        assert coordinator.dump() == before


def test_a_damaged_backup_is_found_and_never_restored(
    settings: Settings, elsewhere: Callable[[], Settings], tmp_path: Path
) -> None:
    with running(settings) as coordinator:
        training_round(coordinator)
        manifest = backup(settings, tmp_path / "backup").manifest
    file = path_of(tmp_path / "backup", manifest.blobs[0])
    sound = file.read_bytes()
    file.write_bytes(b"?" + sound[1:])
    place = elsewhere()
    assert manifest.blobs[0] in verify_backup(tmp_path / "backup").problems[0]
    with pytest.raises(OperationError, match="not complete; the database was not touched"):
        restore(place, tmp_path / "backup")
    file.write_bytes(sound)
    snapshot = tmp_path / "backup" / manifest.database_file
    snapshot.write_bytes(b"?" + snapshot.read_bytes()[1:])
    assert "damaged" in verify_backup(tmp_path / "backup").problems[0]
    with pytest.raises(OperationError, match="damaged"):
        restore(place, tmp_path / "backup")


def test_verifying_finds_a_damaged_file_a_missing_one_and_an_edited_event(
    coordinator: Coordinator, settings: Settings, tmp_path: Path
) -> None:
    training_round(coordinator)
    digests = [version["digest"] for version in coordinator.versions()]
    path_of(settings.data_dir, digests[0]).write_bytes(b"?")
    path_of(settings.data_dir, digests[1]).unlink()
    if coordinator.context.database.is_sqlite:
        edit_an_event(coordinator.context.database)
    problems = verify(settings).problems
    assert len(problems) == 2 + coordinator.context.database.is_sqlite
    assert all(any(digest in problem for problem in problems) for digest in digests[:2])
    report = backup(settings, tmp_path / "backup")
    assert len(report.problems) == 2


def edit_an_event(database: Database) -> None:
    with database.engine.begin() as connection:
        triggers = (
            connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'trigger'")).scalars().all()
        )
        for trigger in triggers:
            connection.execute(text(f"DROP TRIGGER {trigger}"))
        connection.execute(text("UPDATE events SET actor = 'nobody' WHERE id = 3"))


def test_a_folder_with_something_else_in_it_takes_no_backup(
    coordinator: Coordinator, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OperationError, match="folder of its own"):
        backup(settings, tmp_path)


def test_garbage_goes_once_it_is_old_while_the_coordinator_runs(
    coordinator: Coordinator, settings: Settings
) -> None:
    training_round(coordinator)
    put(coordinator, b"nobody asks for this")
    assert collect_garbage(settings) == 0
    eager = settings.model_copy(update={"sweep_grace_seconds": -1.0})
    assert collect_garbage(eager) == 1
    assert verify(settings).problems == ()


def test_a_coordinator_on_an_object_store_is_backed_up_into_a_folder_and_restored_into_a_bucket(
    tmp_path: Path, s3_endpoint: str
) -> None:
    here, there = (
        settings_for(tmp_path / name, blobs_url=store_url(s3_endpoint, f"{tmp_path.name}-{name}"))
        for name in ("here", "there")
    )
    with running(here) as coordinator:
        training_round(coordinator)[0].train()
        backup(here, tmp_path / "backup")
        before = coordinator.dump()
    restore(there, tmp_path / "backup")
    assert verify(there).problems == ()
    with running(there) as coordinator:
        assert coordinator.dump() == before
