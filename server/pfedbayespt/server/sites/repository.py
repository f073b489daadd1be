"""Queries on `sites` and `enrolment_tokens`."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from pfedbayespt.server.database import Transaction
from pfedbayespt.server.sites.models import (
    EnrolmentTokenRecord,
    SiteKeyRecord,
    SiteRecord,
    UsedAssertionRecord,
)


def by_id(tx: Transaction, site_id: str) -> SiteRecord | None:
    """Return a site, if there is one of that id."""
    return tx.session.get(SiteRecord, site_id)


def name_is_taken(tx: Transaction, federation_id: str, name: str) -> bool:
    """Whether the federation has, or had, a site of that name."""
    query = select(SiteRecord.id).where(SiteRecord.federation_id == federation_id, SiteRecord.name == name)
    return tx.session.scalars(query).first() is not None


def redeem(tx: Transaction, token_sha256: str) -> EnrolmentTokenRecord | None:
    """Use up a token, if it is unused and not expired: one statement, so that two callers cannot both have it."""
    redeemed = tx.session.execute(
        update(EnrolmentTokenRecord)
        .where(
            EnrolmentTokenRecord.token_sha256 == token_sha256,
            EnrolmentTokenRecord.used_at.is_(None),
            EnrolmentTokenRecord.expires_at > tx.now,
        )
        .values(used_at=tx.now)
        .returning(EnrolmentTokenRecord.id)
        .execution_options(synchronize_session=False)
    ).first()
    return None if redeemed is None else tx.session.get(EnrolmentTokenRecord, redeemed.id)


def key(tx: Transaction, key_id: str) -> SiteKeyRecord | None:
    """Return a key, live or retired, if there is one of that id."""
    return tx.session.get(SiteKeyRecord, key_id)


def live_keys(tx: Transaction, site_id: str) -> Sequence[SiteKeyRecord]:
    """Return the keys that a site signs with, oldest first."""
    query = select(SiteKeyRecord).where(SiteKeyRecord.site_id == site_id, SiteKeyRecord.retired_at.is_(None))
    return tx.session.scalars(query.order_by(SiteKeyRecord.created_at, SiteKeyRecord.id)).all()


def use_assertion(tx: Transaction, assertion_id: str, expires_at: datetime) -> bool:
    """Note that an assertion was taken; False if it was before. Those that have expired are forgotten."""
    tx.session.execute(delete(UsedAssertionRecord).where(UsedAssertionRecord.expires_at <= tx.now))
    tx.session.add(UsedAssertionRecord(id=assertion_id, expires_at=expires_at))
    try:
        tx.session.flush()
    except IntegrityError:
        return False
    return True


def touch(tx: Transaction, site_id: str, at_most_every: timedelta) -> None:
    """Note that the site was seen, unless it was noted a moment ago."""
    tx.session.execute(
        update(SiteRecord)
        .where(
            SiteRecord.id == site_id,
            SiteRecord.last_seen_at.is_(None) | (SiteRecord.last_seen_at <= tx.now - at_most_every),
        )
        .values(last_seen_at=tx.now)
        .execution_options(synchronize_session=False)
    )


def is_due(site: SiteRecord, now: datetime, at_most_every: timedelta) -> bool:
    """Whether `touch` would write."""
    return site.last_seen_at is None or site.last_seen_at <= now - at_most_every
