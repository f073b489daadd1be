"""The table `trials`: what is tried, the terms, and sums over all processes of what was seen."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from pfedbayespt.protocol import TrialStatus
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.orm import Base, enum_column

_IS_RUNNING = text("status = 'running'")


class TrialRecord(Base):
    """A version on trial; its terms never change, its sums only grow, and not any more once it has ended."""

    __tablename__ = "trials"
    __table_args__ = (
        # A federation tries one version at a time, so that an answer has two possible versions, not more.
        Index(
            "uq_trials_running",
            "federation_id",
            unique=True,
            sqlite_where=_IS_RUNNING,
            postgresql_where=_IS_RUNNING,
        ),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"), index=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))
    serving_version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))
    status: Mapped[TrialStatus] = mapped_column(enum_column(TrialStatus, "status"))
    epoch: Mapped[int] = mapped_column(default=0)
    terms: Mapped[dict[str, Any]]
    num_tried: Mapped[int] = mapped_column(default=0)
    num_errors: Mapped[int] = mapped_column(default=0)
    num_answered: Mapped[int] = mapped_column(default=0)
    num_compared: Mapped[int] = mapped_column(default=0)
    num_flips: Mapped[int] = mapped_column(default=0)
    num_skipped: Mapped[int] = mapped_column(default=0)
    sum_distance: Mapped[float] = mapped_column(default=0.0)
    sum_trial_seconds: Mapped[float] = mapped_column(default=0.0)
    sum_serving_seconds: Mapped[float] = mapped_column(default=0.0)
    reason: Mapped[str | None] = mapped_column(String(255))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    federation: Mapped[FederationRecord] = relationship()
    version: Mapped[ModelVersionRecord] = relationship(foreign_keys=[version_id])
    serving_version: Mapped[ModelVersionRecord] = relationship(foreign_keys=[serving_version_id])
