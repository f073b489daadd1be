"""What can be done with a site: invite it, enrol it, suspend and revoke it."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import select

from pfedbayespt.protocol import (
    EnrolmentToken,
    EnrolmentTokenCreate,
    FederationStatus,
    Page,
    RoundStatus,
    SigningKey,
    Site,
    SiteEnrol,
    SiteEnrolment,
    SiteLeave,
    SiteStatus,
)
from pfedbayespt.server.auth import Caller, SiteCaller, may_see
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import (
    AlreadyExists,
    EnrolmentTokenRefused,
    InvalidRequest,
    NotFound,
    TransitionNotAllowed,
)
from pfedbayespt.server.events import service as events
from pfedbayespt.server.federations import repository as federations
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.identifiers import new_id, new_secret, sha256_hex
from pfedbayespt.server.organisations import service as organisations
from pfedbayespt.server.pages import Order, PageRequest, fetch_page, matching
from pfedbayespt.server.rounds import repository as rounds
from pfedbayespt.server.sites import keys, lifecycle, repository
from pfedbayespt.server.sites.models import EnrolmentTokenRecord, SiteRecord
from pfedbayespt.server.updates import lifecycle as updates

_ORDER = Order((SiteRecord.enrolled_at, SiteRecord.id))


def create_token(
    tx: Transaction,
    caller: Caller,
    federation: FederationRecord,
    request: EnrolmentTokenCreate,
    coordinator_key_id: str,
) -> EnrolmentToken:
    """Create a one-use token; this is the only time it is seen. Its organisation takes part from here on.

    Raises:
        NotFound: the organisation is not the caller's own, and the caller may see no other.
        TransitionNotAllowed: the federation is archived.
    """
    if not may_see(caller, federation.id, request.organisation):
        raise NotFound(f"there is no organisation {request.organisation!r}")
    if federation.status == FederationStatus.ARCHIVED:
        raise TransitionNotAllowed(f"federation {federation.name!r} is archived; no site can join it")
    organisations.admit(tx, federation, request.organisation)
    token = f"enr_{new_secret()}"
    record = EnrolmentTokenRecord(
        id=new_id("tok"),
        federation_id=federation.id,
        organisation=request.organisation,
        token_sha256=sha256_hex(token),
        created_at=tx.now,
        expires_at=tx.now + timedelta(seconds=request.valid_seconds),
    )
    tx.session.add(record)
    tx.session.flush()
    events.record(tx, federation.id, "enrolment_token.created", record.id, organisation=request.organisation)
    return EnrolmentToken(
        token=token,
        federation=federation.name,
        organisation=request.organisation,
        expires_at=record.expires_at,
        coordinator_key_id=coordinator_key_id,
    )


def enrol(tx: Transaction, request: SiteEnrol, signer: SigningKey) -> SiteEnrolment:
    """Redeem a token: the site and its first key are known from here on.

    Raises:
        SignatureRejected: the request is not signed with the key in it, or is meant for another coordinator.
        EnrolmentTokenRefused: the token is unknown, used or expired, or its federation is archived.
        AlreadyExists: the name is taken; the token stays good.
    """
    keys.check_enrolment(request, signer)
    token = repository.redeem(tx, sha256_hex(request.token.get_secret_value()))
    if token is None:
        raise EnrolmentTokenRefused("the token is unknown, used or expired; ask the admin for another one")
    federation = federations.lock(tx, token.federation_id)
    if federation.status == FederationStatus.ARCHIVED:
        raise EnrolmentTokenRefused(f"federation {federation.name!r} is archived; no site can join it")
    if repository.name_is_taken(tx, federation.id, request.site_name):
        raise AlreadyExists(f"federation {federation.name!r} has a site {request.site_name!r} already")
    site = _add(tx, token, request)
    token.used_by_site_id = site.id
    return SiteEnrolment(
        site=describe(site, federation.name), key_id=request.key_id, coordinator=keys.identity_of(signer)
    )


def find(tx: Transaction, site_id: str) -> SiteRecord:
    """Return a site, after locking its federation.

    Raises:
        NotFound: there is none of that id.
    """
    site = repository.by_id(tx, site_id)
    if site is None:
        raise NotFound(f"there is no site {site_id!r}")
    federations.lock(tx, site.federation_id)
    tx.session.refresh(site)
    return site


def find_own(tx: Transaction, caller: SiteCaller) -> SiteRecord:
    """Return the calling site."""
    return tx.session.get_one(SiteRecord, caller.site_id)


def revoke(tx: Transaction, site: SiteRecord) -> None:
    """Shut a site out for good; an active one is suspended first, and what it has waiting is discarded."""
    if site.status == SiteStatus.ACTIVE:
        lifecycle.suspend(tx, site)
    lifecycle.revoke(tx, site)
    round_ = rounds.live(tx, site.federation_id)
    if round_ is not None and round_.status == RoundStatus.COLLECTING:
        for update in rounds.accepted_updates(tx, round_.id):
            if update.site_id == site.id:
                updates.discard(tx, update, site.federation_id, "site_revoked: the site was shut out")


def leave(tx: Transaction, caller: SiteCaller, request: SiteLeave) -> SiteRecord:
    """Let the calling site go for good. What it has submitted was acknowledged, and stays.

    Raises:
        SignatureRejected: no live key of the site has signed this.
        InvalidRequest: it is not the site's own name.
    """
    site = find(tx, caller.site_id)
    keys.check_signed(tx, caller, request)
    if (request.site_id, request.site_name) != (site.id, site.name):
        raise InvalidRequest(
            f"{request.site_name!r}, {request.site_id} is to leave, but {site.name!r}, {site.id} calls"
        )
    lifecycle.leave(tx, site)
    return site


def list_page(
    tx: Transaction,
    federation: FederationRecord,
    request: PageRequest,
    *,
    organisation: str | None = None,
    status: SiteStatus | None = None,
) -> Page[Site]:
    """Return a page of the federation's sites, oldest first: all, or those of an organisation or a status."""

    def to_messages(rows: Sequence[SiteRecord]) -> list[Site]:
        return [describe(row, federation.name) for row in rows]

    query = select(SiteRecord).where(SiteRecord.federation_id == federation.id)
    query = matching(query, organisation=organisation, status=status)
    return fetch_page(tx, query, _ORDER, request, to_messages)


def describe(site: SiteRecord, federation: str) -> Site:
    """Return the site's message."""
    return Site(
        site_id=site.id,
        site_name=site.name,
        organisation=site.organisation,
        federation=federation,
        status=site.status,
        enrolled_at=site.enrolled_at,
        last_seen_at=site.last_seen_at,
    )


def _add(tx: Transaction, token: EnrolmentTokenRecord, request: SiteEnrol) -> SiteRecord:
    site = SiteRecord(
        id=new_id("sit"),
        federation_id=token.federation_id,
        name=request.site_name,
        organisation=token.organisation,
        status=lifecycle.LIFECYCLE.initial,
        enrolled_at=tx.now,
    )
    tx.session.add(site)
    tx.session.flush()
    key = keys.insert(tx, site.id, request.public_key)
    events.record(
        tx,
        site.federation_id,
        "site.enrolled",
        site.id,
        site_name=site.name,
        organisation=token.organisation,
        key_id=key.id,
        public_key=key.public_key,
    )
    lifecycle.admit(tx, site)
    return site
