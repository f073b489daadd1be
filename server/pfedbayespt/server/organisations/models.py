"""The tables `organisations` and `memberships`. An organisation is its name, which never changes."""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.orm import Base


class OrganisationRecord(Base):
    """An organisation."""

    __tablename__ = "organisations"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    created_at: Mapped[datetime]

    memberships: Mapped[list["MembershipRecord"]] = relationship(order_by="MembershipRecord.joined_at")


class MembershipRecord(Base):
    """An organisation takes part in a federation, from the first token or key that was made for it there."""

    __tablename__ = "memberships"

    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"), primary_key=True)
    organisation: Mapped[str] = mapped_column(ForeignKey("organisations.name"), primary_key=True, index=True)
    joined_at: Mapped[datetime]

    federation: Mapped[FederationRecord] = relationship()
