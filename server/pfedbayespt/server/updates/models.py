"""The table `updates`: what sites submitted, accepted or not. The tensors are in the blob store, by digest."""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from pfedbayespt.protocol import UpdateStatus
from pfedbayespt.server.orm import Base, enum_column

_IS_NOT_QUARANTINED = text("status <> 'quarantined'")


class UpdateRecord(Base):
    """A submission."""

    __tablename__ = "updates"
    __table_args__ = (
        # Covers the counts that every look at a round needs.
        Index("ix_updates_round_id_status", "round_id", "status"),
        # A site has one update in a round; quarantined ones do not count, so that a corrected one may follow.
        Index(
            "uq_updates_round_site",
            "round_id",
            "site_id",
            unique=True,
            sqlite_where=_IS_NOT_QUARANTINED,
            postgresql_where=_IS_NOT_QUARANTINED,
        ),
        # And it submits once for each round that asked it, wherever that counts.
        Index(
            "uq_updates_origin_round_site",
            "origin_round_id",
            "site_id",
            unique=True,
            sqlite_where=_IS_NOT_QUARANTINED,
            postgresql_where=_IS_NOT_QUARANTINED,
        ),
    )

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    # The round that asked for it: `round_id`, unless it came late.
    origin_round_id: Mapped[str] = mapped_column(ForeignKey("rounds.id"))
    staleness: Mapped[int] = mapped_column(default=0)
    site_id: Mapped[str] = mapped_column(ForeignKey("sites.id"))
    status: Mapped[UpdateStatus] = mapped_column(enum_column(UpdateStatus, "status"))
    epoch: Mapped[int] = mapped_column(default=0)
    digest: Mapped[str] = mapped_column(String(71), index=True)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    # None where the file was too broken to tell.
    manifest: Mapped[dict[str, Any] | None]
    tensors: Mapped[list[dict[str, Any]] | None]
    # What the site signed; None: taken by a release that did not ask for it.
    statement: Mapped[dict[str, Any] | None]
    num_examples: Mapped[int | None]
    delta_norm: Mapped[float | None]
    verdict: Mapped[str | None] = mapped_column(Text)
    received_at: Mapped[datetime]
    # Since then its file may be gone: see `worker.retention`.
    payload_retired_at: Mapped[datetime | None]
