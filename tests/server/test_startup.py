"""Starting: what is refused, what is repaired, and what must not be imported."""

import json
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from tests.server.harness import ADMIN_TOKEN, Coordinator, problem_of, running, settings_for

from pfedbayespt.server import ServerRole, Settings, create_app
from pfedbayespt.server.blobs import FolderBlobStore, StorageBrokenError
from pfedbayespt.server.database import Database
from pfedbayespt.server.ownership import FolderInUseError, sole_owner
from pfedbayespt.server.worker import driver


@pytest.mark.parametrize("token", ["", "short", "x" * 31])
def test_without_a_long_admin_token_nothing_starts(tmp_path: Path, token: str) -> None:
    with pytest.raises(ValidationError, match="at least 32 characters"):
        Settings(admin_token=token, data_dir=tmp_path)


def test_there_is_no_default_admin_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PFEDBAYESPT_ADMIN_TOKEN", raising=False)
    with pytest.raises(ValidationError, match="admin_token"):
        Settings()


def test_settings_come_from_the_environment_and_hide_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PFEDBAYESPT_ADMIN_TOKEN", ADMIN_TOKEN)
    monkeypatch.setenv("PFEDBAYESPT_ROLES", '["coordinator", "inference"]')
    settings = Settings()
    assert settings.roles == {ServerRole.COORDINATOR, ServerRole.INFERENCE}
    assert ADMIN_TOKEN not in repr(settings)


@pytest.mark.parametrize("url", ["mysql://host/name", "sqlite://", "sqlite:///:memory:"])
def test_a_database_of_another_kind_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ValueError, match="allowed: postgresql"):
        create_app(settings_for(tmp_path, database_url=url))


def test_the_refusal_hides_the_databases_password() -> None:
    with pytest.raises(ValueError, match="not supported") as refused:
        Database("mysql://user:hidden-password@host/name")
    assert "hidden-password" not in str(refused.value)


def test_a_coordinator_starts_without_torch(tmp_path: Path) -> None:
    program = f"""
import json, sys
from pathlib import Path
import pfedbayespt.server as server
app = server.create_app(
    server.Settings(admin_token="x" * 32, data_dir=Path({str(tmp_path)!r}), roles={{"coordinator"}})
)
heavy = {{"torch", "timm", "torchvision", "pfedbayespt.model", "pfedbayespt.client", "PIL"}}
print(json.dumps(sorted(heavy & set(sys.modules))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_importing_the_server_touches_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import pfedbayespt.server, threading; print(threading.active_count())"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.strip() == "1"
    assert list(tmp_path.iterdir()) == []


def test_a_second_coordinator_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        running(settings_for(tmp_path)),
        pytest.raises(FolderInUseError, match="another coordinator"),
        running(settings_for(tmp_path)),
    ):
        pass
    with running(settings_for(tmp_path)) as again:
        assert again.http.get("/readyz").status_code == 200


def test_the_lock_is_gone_with_its_owner(tmp_path: Path) -> None:
    with sole_owner(tmp_path):
        pass
    with sole_owner(tmp_path):
        pass


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with running(settings_for(tmp_path)) as first:
        first.federation(num_rounds=1, min_sites_to_start=2, quorum=2)
        site, _ = first.sites(2)
        first.settle()
        site.train()
        before = first.dump()
    with running(settings_for(tmp_path)) as second:
        assert second.dump() == before


def test_what_a_crash_left_half_written_is_removed_at_the_next_start(tmp_path: Path) -> None:
    with running(settings_for(tmp_path)):
        pass
    leftover = tmp_path / "temporary" / "0.partial"
    leftover.write_bytes(b"half")
    with running(settings_for(tmp_path)):
        assert not leftover.exists()


def test_sqlite_is_as_durable_as_promised(coordinator: Coordinator) -> None:
    with coordinator.context.database.engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    full = 2
    assert pragmas == {"journal_mode": "wal", "synchronous": full, "foreign_keys": 1, "busy_timeout": 15000}


def test_a_write_transaction_excludes_another_from_its_first_statement(coordinator: Coordinator) -> None:
    """What BEGIN IMMEDIATE is for: two that read first and write later would both be refused by SQLite."""
    order: list[str] = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with coordinator.context.database.write("second"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with coordinator.context.database.write("first"):
        inside.set()
        thread.join(timeout=0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_an_inference_process_runs_no_coordinator_operations(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, roles=frozenset({ServerRole.INFERENCE}))
    paths = set(create_app(settings).openapi()["paths"])
    predictions = "/v1/federations/{name}/predictions"
    ours = {path for path in paths if not path.startswith("/v2")}
    assert ours == {predictions, f"{predictions}/batch", "/v1/feature-cache", "/livez", "/readyz"}


def test_the_worker_thread_does_the_work_and_stops_with_the_app(tmp_path: Path) -> None:
    ticked = threading.Event()
    original = driver.tick

    def tick(context: object) -> bool:
        ticked.set()
        return original(context)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(driver, "tick", tick)
        with running(settings_for(tmp_path, worker_interval_seconds=3600.0)) as coordinator:
            assert ticked.wait(timeout=60)
            coordinator.federation(num_rounds=1, min_sites_to_start=2, quorum=2)
            sites = coordinator.sites(2)
            for site in sites:
                while site.assignment()["action"] != "train":
                    pass
                site.train()
            while coordinator.admin.get("/v1/federations/alpha")["rounds_published"] == 0:
                pass
    assert "pfedbayespt-worker" not in {thread.name for thread in threading.enumerate()}


def test_the_worker_outlives_an_error(tmp_path: Path) -> None:
    calls = threading.Semaphore(0)

    def broken(_: object) -> bool:
        calls.release()
        raise RuntimeError("the database is away")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(driver, "tick", broken)
        with running(settings_for(tmp_path, worker_interval_seconds=0.01)):
            assert calls.acquire(timeout=60)
            assert calls.acquire(timeout=60)


def test_after_a_failed_fsync_the_process_asks_to_be_restarted(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise StorageBrokenError("an fsync failed")

    monkeypatch.setattr(FolderBlobStore, "check_sound", broken)
    for path in ("/livez", "/readyz"):
        assert problem_of(coordinator.http.get(path)) == "internal_error"


def test_readiness_needs_the_database(coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: object) -> None:
        raise OperationalError("SELECT 1", {}, Exception("gone"))

    monkeypatch.setattr(Database, "ping", away)
    assert problem_of(coordinator.http.get("/readyz")) == "overloaded"
    assert coordinator.http.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("code", "told"),
    [(sqlite3.SQLITE_IOERR_FSYNC, 1), (sqlite3.SQLITE_IOERR_DIR_FSYNC, 1), (sqlite3.SQLITE_FULL, 0)],
)
def test_a_commit_whose_fsync_fails_is_told_and_one_on_a_full_disk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: int
) -> None:
    heard: list[Exception] = []
    database = Database(f"sqlite:///{tmp_path / 'database.sqlite3'}", on_broken=heard.append)
    failure = sqlite3.OperationalError("disk I/O error")
    failure.sqlite_errorcode = code

    def fail(_: object) -> None:
        raise failure

    monkeypatch.setattr(database.engine.dialect, "do_commit", fail)
    with pytest.raises(OperationalError), database.write("test") as tx:
        tx.session.execute(text("SELECT 1"))
    assert heard == [failure] * told
    database.close()
