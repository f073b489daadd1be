"""Which version answers: a port, because a site that serves its own model has no coordinator's database."""

from dataclasses import dataclass, replace
from typing import Protocol

from sqlalchemy import and_, bindparam, select

from pfedbayespt.protocol import ModelVersionStatus, TrialStatus, TrialTerms
from pfedbayespt.server.auth import Caller, visible_federation
from pfedbayespt.server.calibrations import service as calibrations
from pfedbayespt.server.database import Database, Transaction
from pfedbayespt.server.errors import NoServingVersion, NotFound
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.predictions.predictor import ServableVersion, TrialVersion
from pfedbayespt.server.trials.models import TrialRecord

# Every prediction asks these, so they are built once, and ask for no lineage.
_OF_FEDERATION = ModelVersionRecord.federation_id == bindparam("federation_id")
_NUMBERED = select(ModelVersionRecord).where(_OF_FEDERATION, ModelVersionRecord.number == bindparam("number"))
_SERVING = (
    select(ModelVersionRecord, TrialRecord)
    .outerjoin(
        TrialRecord,
        and_(
            TrialRecord.federation_id == ModelVersionRecord.federation_id,
            TrialRecord.status == TrialStatus.RUNNING,
        ),
    )
    .where(_OF_FEDERATION, ModelVersionRecord.status == ModelVersionStatus.SERVING)
)


class Versions(Protocol):
    """Knows which version answers. Implementations are thread-safe."""

    def check_visible(self, caller: Caller, name: str) -> None:
        """Return if the caller may know of the federation; NotFound if not."""

    def to_answer(self, caller: Caller, name: str, number: int | None) -> ServableVersion:
        """Return the federation's version of that number, or the serving one.

        Raises:
            NotFound: there is no such federation or version, or the caller may not know of it.
            NoServingVersion: none serves yet.
        """


@dataclass(frozen=True)
class RecordedVersions:
    """The versions that the coordinator's database records."""

    database: Database

    def check_visible(self, caller: Caller, name: str) -> None:
        """See `Versions`."""
        with self.database.read() as tx:
            visible_federation(tx, caller, name)

    def to_answer(self, caller: Caller, name: str, number: int | None) -> ServableVersion:
        """See `Versions`."""
        with self.database.read() as tx:
            return version_to_answer(tx, caller, name, number)


def version_to_answer(tx: Transaction, caller: Caller, name: str, number: int | None) -> ServableVersion:
    """Return the federation's version of that number, or the serving one.

    Raises:
        NotFound: there is no such federation or version, or the caller may not know of it.
        NoServingVersion: none serves yet.
    """
    federation = visible_federation(tx, caller, name)
    if number is not None:
        return _calibrated(tx, federation, _numbered(tx, federation, number))
    version, trial = _serving(tx, federation)
    return replace(_calibrated(tx, federation, version), trial=_tried(tx, federation, trial))


def servable(federation: FederationRecord, version: ModelVersionRecord) -> ServableVersion:
    """Return what must be known of a version to answer with it."""
    return ServableVersion(
        federation=federation.name,
        specification=federation.agreed,
        specification_digest=federation.specification_digest,
        number=version.number,
        digest=version.digest,
    )


def _calibrated(
    tx: Transaction, federation: FederationRecord, version: ModelVersionRecord
) -> ServableVersion:
    return replace(servable(federation, version), calibration=calibrations.latest(tx, version.id))


def _tried(tx: Transaction, federation: FederationRecord, record: TrialRecord | None) -> TrialVersion | None:
    if record is None:
        return None
    terms = TrialTerms.model_validate(record.terms)
    candidate = _calibrated(tx, federation, record.version)
    return TrialVersion(record.id, candidate, terms.answer_share, terms.compare_share, terms.sticky_by)


def _numbered(tx: Transaction, federation: FederationRecord, number: int) -> ModelVersionRecord:
    found = tx.session.scalars(_NUMBERED, {"federation_id": federation.id, "number": number}).one_or_none()
    if found is None:
        raise NotFound(f"federation {federation.name!r} has no model version {number}")
    return found


def _serving(tx: Transaction, federation: FederationRecord) -> tuple[ModelVersionRecord, TrialRecord | None]:
    found = tx.session.execute(_SERVING, {"federation_id": federation.id}).one_or_none()
    if found is None:
        raise NoServingVersion(f"federation {federation.name!r} has no model version that serves yet")
    return found[0], found[1]
