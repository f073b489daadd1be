"""The tables `calibration_sketches` and `calibrations`; rows of neither ever change."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from pfedbayespt.server.orm import Base


class SketchRecord(Base):
    """What a site told of a version's scores on its held-out images, with its evaluation."""

    __tablename__ = "calibration_sketches"

    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    content: Mapped[dict[str, Any]] = mapped_column(JSON)


class CalibrationRecord(Base):
    """The calibration of a version from all sketches that there were: one row for each number of them."""

    __tablename__ = "calibrations"

    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    num_sketches: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(71))
    content: Mapped[dict[str, Any]] = mapped_column(JSON)
    pooled_at: Mapped[datetime]
