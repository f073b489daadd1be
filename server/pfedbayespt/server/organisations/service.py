"""What can be done with organisations: make one known, let it take part, find it.

Rules:
1. The first enrolment token or API key that is made for an organisation in a federation makes it a member there.
   Only whoever steers the federation can do that, so an organisation's own admin brings it nowhere by itself.
2. An organisation exists for a caller where `may_see` says so, and nowhere else.
"""

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from pfedbayespt.protocol import Organisation, OrganisationCreate, Page
from pfedbayespt.server.auth import Caller, Role, may_see
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import AlreadyExists, NotFound
from pfedbayespt.server.events import service as events
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.organisations.models import MembershipRecord, OrganisationRecord
from pfedbayespt.server.pages import Order, PageRequest, fetch_page

_ORDER = Order((OrganisationRecord.name,))


def create(tx: Transaction, request: OrganisationCreate) -> OrganisationRecord:
    """Make an organisation known; it takes part nowhere yet.

    Raises:
        AlreadyExists: it is known.
    """
    if not _insert(tx, request.name):
        raise AlreadyExists(f"there is an organisation {request.name!r} already")
    return tx.session.get_one(OrganisationRecord, request.name)


def admit(tx: Transaction, federation: FederationRecord, name: str) -> None:
    """Let an organisation take part in a federation that is locked; doing so again changes nothing."""
    if tx.session.get(MembershipRecord, (federation.id, name)) is not None:
        return
    _insert(tx, name)
    tx.session.add(MembershipRecord(federation_id=federation.id, organisation=name, joined_at=tx.now))
    tx.session.flush()
    events.record(tx, federation.id, "organisation.joined", name)


def find(tx: Transaction, caller: Caller, name: str) -> Organisation:
    """Return an organisation, with the federations in which the caller may see it.

    Raises:
        NotFound: there is none of that name, or not for this caller.
    """
    record = tx.session.get(OrganisationRecord, name)
    message = None if record is None else describe(record, caller)
    if message is None or not (message.federations or caller.role is Role.ADMIN):
        raise NotFound(f"there is no organisation {name!r}")
    return message


def list_page(
    tx: Transaction, caller: Caller, request: PageRequest, federation: FederationRecord | None = None
) -> Page[Organisation]:
    """Return a page of all organisations, or of a federation's, by name; those that the caller may see."""

    def to_messages(rows: Sequence[OrganisationRecord]) -> list[Organisation]:
        return [describe(row, caller) for row in rows]

    query = select(OrganisationRecord)
    if federation is not None:
        members = select(MembershipRecord.organisation).where(MembershipRecord.federation_id == federation.id)
        query = query.where(OrganisationRecord.name.in_(members))
        if (tenant := caller.tenant_in(federation.id)) is not None:
            query = query.where(OrganisationRecord.name == tenant)
    return fetch_page(tx, query, _ORDER, request, to_messages)


def describe(record: OrganisationRecord, caller: Caller) -> Organisation:
    """Return the organisation's message, as far as the caller may know."""
    visible = (part for part in record.memberships if may_see(caller, part.federation_id, record.name))
    return Organisation(
        name=record.name,
        federations=tuple(part.federation.name for part in visible),
        created_at=record.created_at,
    )


def _insert(tx: Transaction, name: str) -> bool:
    """Make an organisation known; False if it is, or if somebody else's transaction is faster."""
    if tx.session.get(OrganisationRecord, name) is not None:
        return False
    with suppress(IntegrityError), tx.session.begin_nested():
        tx.session.add(OrganisationRecord(name=name, created_at=tx.now))
        tx.session.flush()
        return True
    return False
