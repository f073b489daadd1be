"""The tables `model_versions` and `evaluations`.

A version's row names its file by digest and, but for its status, never changes.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from pfedbayespt.protocol import ModelVersionStatus
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.orm import Base, enum_column
from pfedbayespt.server.sites.models import SiteRecord

if TYPE_CHECKING:
    from pfedbayespt.server.calibrations.models import CalibrationRecord
    from pfedbayespt.server.rounds.models import RoundRecord

_IS_SERVING = text("status = 'serving'")


class ModelVersionRecord(Base):
    """A numbered, immutable file of shared parameters."""

    __tablename__ = "model_versions"
    __table_args__ = (
        UniqueConstraint("federation_id", "number"),
        # One version answers predictions at a time.
        Index(
            "uq_model_versions_serving",
            "federation_id",
            unique=True,
            sqlite_where=_IS_SERVING,
            postgresql_where=_IS_SERVING,
        ),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"))
    number: Mapped[int]
    status: Mapped[ModelVersionStatus] = mapped_column(enum_column(ModelVersionStatus, "status"))
    epoch: Mapped[int] = mapped_column(default=0)
    digest: Mapped[str] = mapped_column(String(71))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    # What the server optimiser remembers after this version: whoever starts from the version goes on from there.
    optimiser_state_digest: Mapped[str | None] = mapped_column(String(71))
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"))
    # UNIQUE: a round leads to one version at most, whoever aggregates it (promise P2).
    round_id: Mapped[str | None] = mapped_column(ForeignKey("rounds.id"), unique=True)
    # The coordinator's signed word, as it was signed; None: made by a release that did not sign yet. It names every
    # input, so with thousands of sites it is long: read only where it is shown.
    manifest: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)
    created_at: Mapped[datetime]

    federation: Mapped[FederationRecord] = relationship()
    parent: Mapped["ModelVersionRecord | None"] = relationship(remote_side="ModelVersionRecord.id")
    round: Mapped["RoundRecord | None"] = relationship(foreign_keys=[round_id], back_populates="result")
    evaluations: Mapped[list["EvaluationRecord"]] = relationship(order_by="EvaluationRecord.site_id")
    calibrations: Mapped[list["CalibrationRecord"]] = relationship(order_by="CalibrationRecord.num_sketches")


class EvaluationRecord(Base):
    """A site's report of a version on its own held-out images."""

    __tablename__ = "evaluations"

    version_id: Mapped[str] = mapped_column(ForeignKey("model_versions.id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)
    num_examples: Mapped[int]
    metrics: Mapped[dict[str, float]] = mapped_column(JSON)
    reported_at: Mapped[datetime]

    site: Mapped[SiteRecord] = relationship()
