"""The same coordinator on a real SQLite file and on a real PostgreSQL, both built by the real migrations."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text
from tests.server.harness import Coordinator, running, settings_for

from pfedbayespt.server import upgrade_database
from pfedbayespt.server.settings import Settings

_numbers = count()


def create_database(server_url: str, template: str | None = None) -> str:
    """Create a database on the server, empty or as a copy, and return its URL."""
    url = make_url(server_url).set(drivername="postgresql+psycopg")
    name = f"test_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}_{next(_numbers)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template or 'template1'}"))
    engine.dispose()
    return url.set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def migrated_template(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of a PostgreSQL database with this release's schema."""
    url = create_database(postgres_url)
    upgrade_database(settings_for(tmp_path_factory.mktemp("template"), database_url=url))
    return str(make_url(url).database)


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Return the settings of a coordinator on a database of its own."""
    if request.param == "sqlite":
        return settings_for(tmp_path / "data")
    server = request.getfixturevalue("postgres_url")
    template = request.getfixturevalue("migrated_template")
    return settings_for(tmp_path / "data", database_url=create_database(server, template))


@pytest.fixture
def coordinator(settings: Settings) -> Iterator[Coordinator]:
    with running(settings) as coordinator:
        yield coordinator
