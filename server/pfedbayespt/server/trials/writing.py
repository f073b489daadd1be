"""What the process has seen of trials is written down, and judged, every so often."""

import threading

import structlog
from sqlalchemy.exc import SQLAlchemyError

from pfedbayespt.server.database import Database
from pfedbayespt.server.errors import LostRace
from pfedbayespt.server.trials import service
from pfedbayespt.server.trials.tallies import Tallies, Tally

_log = structlog.get_logger(__name__)


class TallyWriter:
    """The thread that writes tallies down; what cannot be written now is kept for the next time."""

    def __init__(self, database: Database, tallies: Tallies, interval_seconds: float) -> None:
        self._database = database
        self._tallies = tallies
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pfedbayespt-trials", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and return when the thread has ended."""
        self._stopping.set()
        self._thread.join()
        self.write()

    def write(self) -> None:
        """Write down what was seen since the last time."""
        for trial_id, seen in self._tallies.take().items():
            try:
                self._write(trial_id, seen)
            except (SQLAlchemyError, LostRace):
                _log.warning("trial_not_written", trial_id=trial_id, exc_info=True)
                self._tallies.note(trial_id, seen)

    def _write(self, trial_id: str, seen: Tally) -> None:
        with self._database.write("coordinator") as tx:
            service.add(tx, trial_id, seen)

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_seconds):
            self.write()
