"""The database's schema: every table, and the migrations that build it.

An embedded SQLite database belongs to the process, which upgrades it at start-up. Any other database is
upgraded by an operator (`upgrade`), since other replicas may be running on it; a process that finds an older
or a newer schema there refuses to start.
"""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData

from pfedbayespt.server.api_keys import models as _api_keys
from pfedbayespt.server.calibrations import models as _calibrations
from pfedbayespt.server.database import Database
from pfedbayespt.server.events import models as _events
from pfedbayespt.server.failpoints import failpoint
from pfedbayespt.server.federations import models as _federations
from pfedbayespt.server.model_versions import models as _model_versions
from pfedbayespt.server.organisations import models as _organisations
from pfedbayespt.server.orm import Base
from pfedbayespt.server.rounds import models as _rounds
from pfedbayespt.server.sites import models as _sites
from pfedbayespt.server.trials import models as _trials
from pfedbayespt.server.updates import models as _updates

METADATA: Final[MetaData] = Base.metadata
MODELS: Final = (
    _api_keys,
    _calibrations,
    _events,
    _federations,
    _model_versions,
    _organisations,
    _rounds,
    _sites,
    _trials,
    _updates,
)
_PACKAGE: Final = Path(__file__).parent


class SchemaError(RuntimeError):
    """The database's schema is not the one that this release needs."""


def prepare(database: Database) -> None:
    """Upgrade an embedded database, or check another one.

    Raises:
        SchemaError: the schema of a shared database is not this release's.
    """
    if database.is_sqlite:
        upgrade(database)
    else:
        check(database)


def upgrade(database: Database) -> None:
    """Bring the database to this release's schema; harmless if it is there already."""
    database.make_folder()
    with database.migrating() as connection:
        command.upgrade(migrations_config(connection), "head")
        failpoint("migration.before_commit")


def check(database: Database) -> None:
    """Return if the database has this release's schema.

    Raises:
        SchemaError: it has another one; the message says what to do.
    """
    wanted = set(wanted_revisions())
    with database.engine.connect() as connection:
        found = set(MigrationContext.configure(connection).get_current_heads())
    if found != wanted:
        raise SchemaError(
            f"the database's schema is {', '.join(sorted(found)) or 'empty'}, this release needs "
            f"{', '.join(sorted(wanted))}; run `pfedbayespt coordinator upgrade-database` of this release"
        )


def wanted_revisions() -> tuple[str, ...]:
    """Return the revisions of the schema that this release needs."""
    return tuple(sorted(ScriptDirectory.from_config(migrations_config()).get_heads()))


def migrations_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration, working on `connection` if there is one."""
    config = Config()
    config.set_main_option("script_location", str(_migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _migrations_folder() -> Path:
    """Return where the migrations are: inside an installed wheel, beside the source roots in a checkout."""
    installed, checkout = _PACKAGE / "_migrations", _PACKAGE.parents[2] / "migrations"
    return installed if installed.is_dir() else checkout
