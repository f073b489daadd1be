"""The tables `sites`, `site_keys`, `used_assertions` and `enrolment_tokens`.

Of enrolment tokens they hold the SHA-256 only; of keys the public half, for the private one never leaves the site.
"""

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
    enrolled_at: Mapped[datetime]
    last_seen_at: Mapped[datetime | None]

    federation: Mapped[FederationRecord] = relationship()


class SiteKeyRecord(Base):
    """A public key of a site. A retired one stays, so that what it signed can be checked for ever."""

    __tablename__ = "site_keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"), index=True)
    public_key: Mapped[str] = mapped_column(String(43))
    created_at: Mapped[datetime]
    retired_at: Mapped[datetime | None]

    site: Mapped[SiteRecord] = relationship()


class UsedAssertionRecord(Base):
    """An assertion that was taken; its row is kept until it would be refused for its age."""

    __tablename__ = "used_assertions"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)  # SHA-256 of the site's id and the `jti`
    expires_at: Mapped[datetime] = mapped_column(index=True)


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
