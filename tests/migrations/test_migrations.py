"""The migrations build what the models say, up and down, on both databases."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Enum, inspect, text
from sqlalchemy.exc import IntegrityError
from tests.contracts.conftest import create_database
from tests.server.harness import running, settings_for

from pfedbayespt.protocol import (
    ApiKeyRole,
    FederationStatus,
    ModelVersionStatus,
    RoundStatus,
    RoundTask,
    SiteStatus,
    TrialStatus,
    UpdateStatus,
)
from pfedbayespt.server import create_app, schema
from pfedbayespt.server.database import Database
from pfedbayespt.server.schema import METADATA, SchemaError

SCRIPTS = ScriptDirectory.from_config(schema.migrations_config())
REVISIONS = [script.revision for script in SCRIPTS.walk_revisions()][::-1]
INSERT_FEDERATION = (
    "INSERT INTO federations (id, name, status, epoch, specification, specification_digest, created_at)"
)
ENUMS: dict[str, type[StrEnum]] = {
    "api_keys.role": ApiKeyRole,
    "federations.status": FederationStatus,
    "sites.status": SiteStatus,
    "rounds.status": RoundStatus,
    "rounds.task": RoundTask,
    "trials.status": TrialStatus,
    "updates.status": UpdateStatus,
    "model_versions.status": ModelVersionStatus,
}


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'database.sqlite3'}"
    else:
        url = create_database(request.getfixturevalue("postgres_url"))
    database = Database(url)
    yield database
    database.close()


def upgrade_to(database: Database, revision: str) -> None:
    with database.migrating() as connection:
        command.upgrade(schema.migrations_config(connection), revision)


def downgrade_to(database: Database, revision: str) -> None:
    with database.migrating() as connection:
        command.downgrade(schema.migrations_config(connection), revision)


def described(index: Any) -> str:
    conditions = [str(condition) for condition in index.get("dialect_options", {}).values()]
    return f"{index['name']}: {index['column_names']}, unique: {bool(index['unique'])}, where {conditions}"


def shape(database: Database) -> dict[str, Any]:
    """Return everything that the database says about its tables."""
    inspector = inspect(database.engine)
    return {
        table: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"])
                for column in inspector.get_columns(table)
            },
            "indexes": sorted(map(described, inspector.get_indexes(table))),
            "foreign keys": sorted(map(repr, inspector.get_foreign_keys(table))),
            "checks": sorted(str(check["name"]) for check in inspector.get_check_constraints(table)),
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def test_models_and_migrations_do_not_drift(database: Database) -> None:
    schema.upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []


def test_what_the_comparison_overlooks_is_equal_too(database: Database, tmp_path: Path) -> None:
    """Checks, partial indexes and nullability, compared with what the models themselves would create."""
    schema.upgrade(database)
    migrated = shape(database)
    other = Database(f"sqlite:///{tmp_path / 'models.sqlite3'}")
    METADATA.create_all(other.engine)
    created = shape(other)
    other.close()
    assert migrated.keys() == created.keys()
    for table in created:
        assert migrated[table]["checks"] == created[table]["checks"]
        assert migrated[table]["columns"].keys() == created[table]["columns"].keys()
        if database.is_sqlite:
            assert migrated[table] == created[table]


def test_every_step_down_undoes_its_step_up(database: Database) -> None:
    shapes = [shape(database)]
    for revision in REVISIONS:
        upgrade_to(database, revision)
        shapes.append(shape(database))
    for index, revision in enumerate(["base", *REVISIONS[:-1]][::-1]):
        downgrade_to(database, revision)
        assert shape(database) == shapes[-2 - index]
    upgrade_to(database, "head")
    assert shape(database) == shapes[-1]


def test_upgrading_twice_is_harmless(database: Database) -> None:
    schema.upgrade(database)
    before = shape(database)
    schema.upgrade(database)
    assert shape(database) == before


def test_there_is_one_line_of_history_and_every_file_is_dated() -> None:
    assert len(SCRIPTS.get_heads()) == 1
    for revision in REVISIONS:
        path = Path(SCRIPTS.get_revision(revision).path)
        assert path.stem == revision
        assert revision[:5].rstrip("_").isdigit(), f"{path.name} does not begin with its date"
        assert len(revision) <= 32, "Alembic keeps 32 characters of a revision"


@pytest.mark.parametrize("column", ENUMS)
def test_the_models_checks_allow_exactly_the_enums_values(column: str) -> None:
    table, name = column.split(".")
    kind = METADATA.tables[table].columns[name].type
    assert isinstance(kind, Enum)
    assert kind.enums == [member.value for member in ENUMS[column]]
    assert any(
        isinstance(constraint, CheckConstraint) and constraint.name == f"ck_{table}_{name}"
        for constraint in METADATA.tables[table].constraints
    )


def test_every_enum_column_is_in_the_list_above() -> None:
    columns = {
        f"{table.name}.{column.name}"
        for table in METADATA.sorted_tables
        for column in table.columns
        if isinstance(column.type, Enum)
    }
    assert columns == set(ENUMS)


@pytest.mark.parametrize("column", ENUMS)
def test_the_migrated_checks_allow_exactly_the_enums_values(database: Database, column: str) -> None:
    schema.upgrade(database)
    table, name = column.split(".")
    checks = {
        check["name"]: check["sqltext"] for check in inspect(database.engine).get_check_constraints(table)
    }
    allowed = {part.split("'")[0] for part in checks[f"ck_{table}_{name}"].split("'")[1::2]}
    assert allowed == {member.value for member in ENUMS[column]}


def test_a_status_that_is_none_is_refused_by_the_database(database: Database) -> None:
    schema.upgrade(database)
    insert = text(
        f"{INSERT_FEDERATION} VALUES ('fed_1', 'a', 'broken', 0, '{{}}', 'sha256:0', '2026-01-01 00:00:00')"
    )

    def insert_it() -> None:
        with database.write("test") as tx:
            tx.session.execute(insert)

    with pytest.raises(IntegrityError, match="ck_federations_status"):
        insert_it()


def test_a_migration_that_fails_leaves_nothing_behind(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = ScriptDirectory.from_config(schema.migrations_config())
    last = scripts.get_revision("head").module
    upgrade = last.upgrade

    def upgrade_and_crash() -> None:
        upgrade()
        raise RuntimeError("power cut")

    monkeypatch.setattr(last, "upgrade", upgrade_and_crash)
    monkeypatch.setattr(ScriptDirectory, "from_config", lambda _: scripts)

    with pytest.raises(RuntimeError, match="power cut"):
        schema.upgrade(database)

    assert shape(database) == {}
    monkeypatch.undo()
    schema.upgrade(database)
    assert shape(database)


def test_data_survive_the_last_step_down_and_up(database: Database) -> None:
    schema.upgrade(database)
    insert = text(
        f"{INSERT_FEDERATION} VALUES ('fed_1', 'a', 'draft', 0, '{{}}', 'sha256:0', '2026-01-01 00:00:00')"
    )
    with database.write("test") as tx:
        tx.session.execute(insert)
    downgrade_to(database, REVISIONS[-2])
    upgrade_to(database, "head")
    with database.read() as tx:
        assert tx.session.execute(text("SELECT name FROM federations")).scalar_one() == "a"


def test_a_shared_database_is_never_upgraded_by_a_server_that_starts(
    postgres_url: str, tmp_path: Path
) -> None:
    url = create_database(postgres_url)
    settings = settings_for(tmp_path, database_url=url)
    with pytest.raises(SchemaError, match="upgrade-database"), running(settings):
        pass
    database = Database(url)
    schema.upgrade(database)
    with running(settings) as coordinator:
        assert coordinator.http.get("/readyz").status_code == 200
    downgrade_to(database, REVISIONS[0])
    database.close()
    with pytest.raises(SchemaError, match=REVISIONS[0]), running(settings):
        pass


def test_an_embedded_database_is_upgraded_when_the_server_starts(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    create_app(settings)
    database = Database(settings.effective_database_url)
    upgrade_to(database, REVISIONS[0])
    database.close()
    with running(settings) as coordinator:
        schema.check(coordinator.context.database)
