"""The tables `rounds`, `round_sites` (the cohort) and `round_inputs` (what the aggregation is made of, frozen)."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from pfedbayespt.protocol import RoundStatus, RoundTask
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.orm import Base, enum_column
from pfedbayespt.server.sites.models import SiteRecord
from pfedbayespt.server.updates.models import UpdateRecord

_IS_LIVE = text("status NOT IN ('published', 'held', 'abandoned')")


class RoundRecord(Base):
    """One collect, aggregate, publish cycle."""

    __tablename__ = "rounds"
    __table_args__ = (
        UniqueConstraint("federation_id", "number"),
        Index(
            "uq_rounds_live", "federation_id", unique=True, sqlite_where=_IS_LIVE, postgresql_where=_IS_LIVE
        ),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"))
    number: Mapped[int]
    task: Mapped[RoundTask] = mapped_column(enum_column(RoundTask, "task"))
    status: Mapped[RoundStatus] = mapped_column(enum_column(RoundStatus, "status"))
    epoch: Mapped[int] = mapped_column(default=0)
    base_version_id: Mapped[str] = mapped_column(
        ForeignKey("model_versions.id", use_alter=True, name="fk_rounds_base_version_id_model_versions")
    )
    quorum: Mapped[int]
    # The round closes early once this many updates are accepted; more sites than that may be asked.
    target_updates: Mapped[int]
    started_at: Mapped[datetime]
    # When the present state ends by itself, whatever happens.
    deadline_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    # Who aggregates it, and until when nobody else need bother.
    lease_holder: Mapped[str | None] = mapped_column(String(64))
    lease_expires_at: Mapped[datetime | None]
    abandoned_reason: Mapped[str | None] = mapped_column(String(200))

    federation: Mapped[FederationRecord] = relationship()
    base_version: Mapped[ModelVersionRecord] = relationship(foreign_keys=[base_version_id])
    result: Mapped[ModelVersionRecord | None] = relationship(
        foreign_keys=[ModelVersionRecord.round_id], back_populates="round"
    )
    cohort: Mapped[list["RoundSite"]] = relationship(order_by="RoundSite.site_id")
    inputs: Mapped[list["RoundInput"]] = relationship(order_by="RoundInput.position")


class RoundSite(Base):
    """A site that is asked in a round."""

    __tablename__ = "round_sites"

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), primary_key=True)

    site: Mapped[SiteRecord] = relationship()


class RoundInput(Base):
    """An update that goes into the round's aggregate, and its share."""

    __tablename__ = "round_inputs"
    __table_args__ = (UniqueConstraint("update_id"),)

    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    update_id: Mapped[str] = mapped_column(ForeignKey("updates.id"))
    weight: Mapped[float]

    update: Mapped[UpdateRecord] = relationship()
