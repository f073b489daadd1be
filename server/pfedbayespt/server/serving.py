"""What the command line calls: run a server until it is told to stop, or upgrade a database."""

import os
import resource
import sys
from typing import Final, NoReturn

import structlog
import uvicorn

from pfedbayespt.server import logs, schema
from pfedbayespt.server.app import create_app
from pfedbayespt.server.database import Database
from pfedbayespt.server.settings import Settings

EXIT_STORAGE_BROKEN: Final = os.EX_IOERR
_SHUTDOWN_SECONDS = 20
_log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Serve on `settings.host` and `settings.port` until SIGINT or SIGTERM; then finish what is under way.

    If an fsync fails, the process ends at once with `EXIT_STORAGE_BROKEN`: nothing is acknowledged that may not be
    on the disk, and start-up is recovery.

    Raises:
        SystemExit: the server could not start; the reason is in the log.
    """
    logs.configure_process()
    _allow_many_open_files()
    uvicorn.run(
        create_app(settings, on_broken=_end_process),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _end_process(error: Exception) -> NoReturn:
    _log.critical(
        "storage_broken",
        error=str(error),
        hint="mend the disk, then start again; nothing acknowledged is lost",
    )
    sys.stderr.flush()
    os._exit(EXIT_STORAGE_BROKEN)  # not SystemExit, which would end one thread and let the others answer


def _allow_many_open_files() -> None:
    """Raise the soft limit to the hard one: every connection and every upload holds a file open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def upgrade_database(settings: Settings) -> None:
    """Bring the database that `settings` name to this release's schema."""
    database = Database(settings.effective_database_url)
    try:
        schema.upgrade(database)
    finally:
        database.close()
