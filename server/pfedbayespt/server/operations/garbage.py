"""Doing at once what the worker's sweep does from time to time."""

from pfedbayespt.server import schema
from pfedbayespt.server.blobs import open_store
from pfedbayespt.server.context import Context
from pfedbayespt.server.database import Database
from pfedbayespt.server.settings import Settings
from pfedbayespt.server.worker.sweeping import sweep


def collect_garbage(settings: Settings) -> int:
    """Remove files that no row names and that are older than `sweep_grace_seconds`; return how many those were.

    Safe while coordinators run.

    Raises:
        SchemaError: the database is not of this release.
    """
    database = Database(settings.effective_database_url)
    try:
        schema.check(database)
        return sweep(Context(settings, database, open_store(settings.blobs_url, settings.data_dir)))
    finally:
        database.close()
