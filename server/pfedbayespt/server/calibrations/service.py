"""Taking sketches, and keeping the calibration that they lead to.

Rules:
1. A sketch comes with the site's evaluation, in the same transaction, and never changes.
2. Each further sketch pools all of them anew, in the transaction that records it, with an event. The calibration
   from the most sketches is the version's; predictions name its digest, as it decides what they say.
"""

from sqlalchemy import select

from pfedbayespt.protocol import Calibration, CalibrationSketch, VersionCalibration, digest_of_message
from pfedbayespt.server.calibrations.models import CalibrationRecord, SketchRecord
from pfedbayespt.server.calibrations.pooling import pool
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events import service as events
from pfedbayespt.server.model_versions.models import ModelVersionRecord


def add_sketch(tx: Transaction, version: ModelVersionRecord, site_id: str, sketch: CalibrationSketch) -> None:
    """Keep a site's first sketch of the version, and calibrate the version anew."""
    tx.session.add(
        SketchRecord(version_id=version.id, site_id=site_id, content=sketch.model_dump(mode="json"))
    )
    tx.session.flush()
    _calibrate(tx, version)


def sketch_of(tx: Transaction, version_id: str, site_id: str) -> CalibrationSketch | None:
    """Return what the site told of the version, if it did."""
    record = tx.session.get(SketchRecord, (version_id, site_id))
    return None if record is None else CalibrationSketch.model_validate(record.content)


def latest(tx: Transaction, version_id: str) -> VersionCalibration | None:
    """Return the version's calibration, if any site told of its scores."""
    query = (
        select(CalibrationRecord)
        .where(CalibrationRecord.version_id == version_id)
        .order_by(CalibrationRecord.num_sketches.desc())
        .limit(1)
    )
    record = tx.session.scalars(query).first()
    return None if record is None else describe(record)


def describe(record: CalibrationRecord) -> VersionCalibration:
    """Return the record's message."""
    return VersionCalibration(
        digest=record.digest,
        calibration=Calibration.model_validate(record.content),
        pooled_at=record.pooled_at,
    )


def _calibrate(tx: Transaction, version: ModelVersionRecord) -> None:
    query = select(SketchRecord).where(SketchRecord.version_id == version.id)
    sketches = {
        record.site_id: CalibrationSketch.model_validate(record.content)
        for record in tx.session.scalars(query)
    }
    calibration = pool(version.number, version.federation.agreed.calibration, sketches)
    digest = digest_of_message(calibration)
    tx.session.add(
        CalibrationRecord(
            version_id=version.id,
            num_sketches=len(sketches),
            digest=digest,
            content=calibration.model_dump(mode="json"),
            pooled_at=tx.now,
        )
    )
    tx.session.flush()
    events.record(
        tx,
        version.federation_id,
        "model_version.calibrated",
        version.id,
        version_number=version.number,
        digest=digest,
        num_examples=calibration.num_examples,
        temperature=calibration.temperature,
    )
