"""Versions are loaded before they are asked for, so that neither the first request nor a swap waits for one.

Rules:
1. The process becomes ready once it has tried every version that serves: one that cannot be loaded is logged, once,
   and does not keep the others from being served. From then on it stays ready, whatever is promoted.
2. Afterwards it looks every `interval_seconds` for what may be asked for next: serving versions, candidates, and
   whatever is on trial. A version on trial that cannot be loaded ends its trial.
"""

import threading

import structlog
from sqlalchemy import or_, select
from sqlalchemy.exc import SQLAlchemyError

from pfedbayespt.protocol import FederationStatus, ModelVersionStatus, TrialStatus
from pfedbayespt.server.context import Context
from pfedbayespt.server.errors import CoordinatorError, Overloaded
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.predictions import service
from pfedbayespt.server.predictions.predictor import Predictor, ServableVersion
from pfedbayespt.server.trials import ending as trials
from pfedbayespt.server.trials.models import TrialRecord

_STATUSES = (ModelVersionStatus.CANDIDATE, ModelVersionStatus.SERVING)
_log = structlog.get_logger(__name__)


class Preloader:
    """The thread that prepares versions, and sets the context's `is_warm` when it has done so once."""

    def __init__(self, context: Context, predictor: Predictor, interval_seconds: float) -> None:
        self._context = context
        self._predictor = predictor
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._refused: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="pfedbayespt-preloader", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def stop(self) -> None:
        """Return when the thread has ended."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._prepare_all()
            self._context.is_warm.set()
            self._stopping.wait(self._interval_seconds)

    def _prepare_all(self) -> None:
        try:
            for version in wanted_versions(self._context):
                if self._stopping.is_set():
                    return
                self._prepare(version)
        except SQLAlchemyError:
            _log.warning("preloading_postponed", exc_info=True)

    def _prepare(self, version: ServableVersion) -> None:
        if version.digest in self._refused and not self._is_on_trial(version):
            return
        try:
            self._predictor.prepare(version)
        except Overloaded as error:  # the store does not answer now: that is not for good
            _log.warning("preloading_postponed", number=version.number, reason=error.detail)
        except CoordinatorError as error:
            _log.warning("version_not_prepared", number=version.number, reason=error.detail)
            self._refused.add(version.digest)
            self._end_trial(version, error.detail)

    def _is_on_trial(self, version: ServableVersion) -> bool:
        with self._context.database.read() as tx:
            return trials.find_trial_of(tx, version.federation, version.number) is not None

    def _end_trial(self, version: ServableVersion, reason: str) -> None:
        with self._context.database.write("coordinator") as tx:
            trials.trip_unloadable(tx, version.federation, version.number, reason)


def wanted_versions(context: Context) -> list[ServableVersion]:
    """Return what may be asked for next: of each live federation what serves, the candidate, what is on trial."""
    on_trial = select(TrialRecord.version_id).where(TrialRecord.status == TrialStatus.RUNNING)
    query = (
        select(FederationRecord, ModelVersionRecord)
        .join(ModelVersionRecord, ModelVersionRecord.federation_id == FederationRecord.id)
        .where(FederationRecord.status.in_((FederationStatus.ACTIVE, FederationStatus.PAUSED)))
        .where(or_(ModelVersionRecord.status.in_(_STATUSES), ModelVersionRecord.id.in_(on_trial)))
        .order_by(FederationRecord.name, ModelVersionRecord.number)
    )
    with context.database.read() as tx:
        return [service.servable(federation, version) for federation, version in tx.session.execute(query)]
