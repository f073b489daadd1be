"""Run the migrations on the connection that the server gives, or, for developers, on PFEDBAYESPT_DATABASE_URL.

One idea per migration, dated by file name; each must work beside the release before it.
"""

import os

from alembic import context
from sqlalchemy import Connection

from pfedbayespt.server.database import Database
from pfedbayespt.server.schema import METADATA


def run(connection: Connection) -> None:
    """Run every migration that the command asks for, in one transaction."""
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        transactional_ddl=True,  # on SQLite too: the server begins its transactions itself
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    with Database(os.environ["PFEDBAYESPT_DATABASE_URL"]).migrating() as own:
        run(own)
