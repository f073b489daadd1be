"""The table `api_keys`. Of a key it holds the SHA-256 of its secret only."""

from datetime import datetime

from sqlalchemy import ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from pfedbayespt.protocol import ApiKeyRole
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.orm import Base, enum_column


class ApiKeyRecord(Base):
    """A key that gives a role in one federation, on behalf of one organisation."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    federation_id: Mapped[str] = mapped_column(ForeignKey("federations.id"), index=True)
    organisation: Mapped[str] = mapped_column(String(63))
    name: Mapped[str] = mapped_column(String(63))
    role: Mapped[ApiKeyRole] = mapped_column(enum_column(ApiKeyRole, "role"))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]

    federation: Mapped[FederationRecord] = relationship()
