"""A real PostgreSQL for whoever asks for it."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

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
