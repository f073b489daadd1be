"""What the command line calls: run a server until it is told to stop, or upgrade a database."""

import os
import resource
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import Final, NoReturn

import structlog
import uvicorn

from pfedbayespt.server import logs, memory, schema
from pfedbayespt.server.app import create_app
from pfedbayespt.server.database import Database
from pfedbayespt.server.settings import ServerRole, Settings

EXIT_STORAGE_BROKEN: Final = os.EX_IOERR
_SHUTDOWN_SECONDS = 20
_EXIT_NOT_STARTED = 3  # as `uvicorn.run` has it
_SWITCH_SECONDS: Final = 0.0005
"""How long a thread that checks an upload keeps a heartbeat waiting, each time that it needs the interpreter:
Python's own 5 ms add up to hundreds while many upload."""
_KEEP_ALIVE_SECONDS: Final = 75
"""For how long a connection may idle: longer than clients and load balancers keep one (httpx 5 s, many balancers
60 s), so that none of them sends a request on a connection that is being closed here."""
_log = structlog.get_logger(__name__)


def run(settings: Settings) -> None:
    """Serve on `settings.host` and `settings.port` until SIGINT or SIGTERM; then finish what is under way.

    From the signal on `/readyz` says 503; `settings.drain_seconds` later, when no load balancer sends anything here
    any more, the server stops listening. A second signal cuts the wait short.

    If an fsync fails, the process ends at once with `EXIT_STORAGE_BROKEN`: nothing is acknowledged that may not be
    on the disk, and start-up is recovery.

    Raises:
        SystemExit: the server could not start; the reason is in the log.
    """
    logs.configure_process()
    _allow_many_open_files()
    if ServerRole.INFERENCE not in settings.roles:  # which has other work, and sets its own limits
        memory.return_buffers()
        sys.setswitchinterval(_SWITCH_SECONDS)
    app = create_app(settings, on_broken=_end_process)
    config = uvicorn.Config(
        app,
        # Named, as other packages bring other ones: this one limits the size of headers.
        http="h11",
        loop="asyncio",
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    server = _DrainingServer(config, app.state.context.is_stopping, settings.drain_seconds)
    with suppress(KeyboardInterrupt):
        server.run()
    if not server.started:
        raise SystemExit(_EXIT_NOT_STARTED)


class _DrainingServer(uvicorn.Server):
    """Listens for a while after it was told to stop."""

    def __init__(self, config: uvicorn.Config, is_stopping: threading.Event, drain_seconds: float) -> None:
        super().__init__(config)
        self._is_stopping = is_stopping
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take the first signal as an announcement; the server's loop looks ten times a second for the end."""
        if self._is_stopping.is_set() or not self._drain_seconds:
            super().handle_exit(sig, frame)
            return
        self._is_stopping.set()
        end = threading.Timer(self._drain_seconds, super().handle_exit, (sig, frame))
        end.daemon = True
        end.start()


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
