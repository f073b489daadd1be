"""What can be done with API keys: make one, list them, revoke one. A key never changes.

Rule: only an admin makes keys that lead a federation; who leads one makes all others in it.
"""

from collections.abc import Sequence

from sqlalchemy import select

from pfedbayespt.protocol import ApiKey, ApiKeyCreate, ApiKeyRole, NewApiKey, Page
from pfedbayespt.server.api_keys.models import ApiKeyRecord
from pfedbayespt.server.auth import Caller, Role
from pfedbayespt.server.auth import api_keys as credentials
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import NotFound, PermissionDenied
from pfedbayespt.server.events import service as events
from pfedbayespt.server.federations import repository as federations
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.identifiers import sha256_hex
from pfedbayespt.server.organisations import service as organisations
from pfedbayespt.server.pages import Order, PageRequest, fetch_page

_ORDER = Order((ApiKeyRecord.created_at, ApiKeyRecord.id))


def create(tx: Transaction, caller: Caller, federation: FederationRecord, request: ApiKeyCreate) -> NewApiKey:
    """Make a key; this is the only time it is seen.

    Raises:
        PermissionDenied: the key would lead the federation, and the caller is no admin.
    """
    if request.role is ApiKeyRole.FEDERATION_LEAD and caller.role is not Role.ADMIN:
        raise PermissionDenied("a key that leads a federation is made by an admin")
    organisations.admit(tx, federation, request.organisation)
    text, key_id, secret = credentials.make()
    record = ApiKeyRecord(
        id=f"api_{key_id}",
        federation_id=federation.id,
        organisation=request.organisation,
        name=request.name,
        role=request.role,
        secret_sha256=sha256_hex(secret),
        created_at=tx.now,
    )
    tx.session.add(record)
    tx.session.flush()
    facts = {"role": request.role.value, "organisation": request.organisation}
    events.record(tx, federation.id, "api_key.created", record.id, **facts)
    return NewApiKey(key=text, api_key=describe(record, federation.name))


def revoke(tx: Transaction, caller: Caller, key_id: str) -> ApiKey:
    """Make a key worth nothing from the next request on; doing so again changes nothing.

    Raises:
        NotFound: there is none of that id, or not for this caller.
    """
    record = tx.session.get(ApiKeyRecord, key_id)
    if record is None or not caller.belongs_to(record.federation_id):
        raise NotFound(f"there is no API key {key_id!r}")
    federation = federations.lock(tx, record.federation_id)
    tx.session.refresh(record)
    if record.revoked_at is None:
        record.revoked_at = tx.now
        tx.session.flush()
        events.record(tx, federation.id, "api_key.revoked", record.id)
    return describe(record, federation.name)


def list_page(tx: Transaction, federation: FederationRecord, request: PageRequest) -> Page[ApiKey]:
    """Return a page of the federation's keys, oldest first, revoked ones too."""

    def to_messages(rows: Sequence[ApiKeyRecord]) -> list[ApiKey]:
        return [describe(row, federation.name) for row in rows]

    query = select(ApiKeyRecord).where(ApiKeyRecord.federation_id == federation.id)
    return fetch_page(tx, query, _ORDER, request, to_messages)


def describe(record: ApiKeyRecord, federation: str) -> ApiKey:
    """Return the key's message, without its secret."""
    return ApiKey(
        api_key_id=record.id,
        federation=federation,
        organisation=record.organisation,
        name=record.name,
        role=record.role,
        created_at=record.created_at,
        revoked_at=record.revoked_at,
    )
