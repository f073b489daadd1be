"""The tables `sites` and `enrolment_tokens`. Of secrets they hold the SHA-256 only."""

from datetime import datetime

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from pfedbayespt.protocol import SiteStatus
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.orm import Base, enum_column


class SiteRecord(Base):
    """An enrolled installation of an organisation."""

    __tablename__ = "sites"
    __table_args__ = (UniqueConstraint("federation_id", "name"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"))
    name: Mapped[str] = mapped_column(String(63))
    organisation: Mapped[str] = mapped_column(String(63))
    status: Mapped[SiteStatus] = mapped_column(enum_column(SiteStatus, "status"))
    epoch: Mapped[int] = mapped_column(default=0)
    secret_sha256: Mapped[str] = mapped_column(String(64))
    enrolled_at: Mapped[datetime]
    last_seen_at: Mapped[datetime | None]

    federation: Mapped[FederationRecord] = relationship()


class EnrolmentTokenRecord(Base):
    """A token that lets one site of one organisation join one federation, once, until it expires."""

    __tablename__ = "enrolment_tokens"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"))
    organisation: Mapped[str] = mapped_column(String(63))
    token_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    used_by_site_id: Mapped[str | None] = mapped_column(ForeignKey("sites.id"))
