"""A site's keys: the first comes with the enrolment, a second for rotation; live ones get access tokens.

Rules:
1. A site has at most `MAX_LIVE_KEYS` live keys and never none.
2. Adding and retiring are themselves signed with a live key: an access token alone, if stolen, changes no key.
3. A key belongs to one site for ever. A retired one never comes back.
"""

from datetime import UTC, datetime

from sqlalchemy.exc import IntegrityError

from pfedbayespt.protocol import (
    MAX_LIVE_KEYS,
    AccessToken,
    CoordinatorIdentity,
    SignatureError,
    SignedMessage,
    SigningKey,
    SiteEnrol,
    SiteKey,
    SiteKeyAdd,
    SiteKeyRetire,
    key_id_of,
)
from pfedbayespt.server.auth import SiteCaller, tokens
from pfedbayespt.server.auth.guards import active_site
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import AlreadyExists, NotFound, SignatureRejected, TransitionNotAllowed
from pfedbayespt.server.events import service as events
from pfedbayespt.server.identifiers import sha256_hex
from pfedbayespt.server.sites import repository
from pfedbayespt.server.sites.models import SiteKeyRecord


def identity_of(signer: SigningKey) -> CoordinatorIdentity:
    """Return the public half of the coordinator's key."""
    return CoordinatorIdentity(key_id=signer.key_id, public_key=signer.public_key)


def check_enrolment(request: SiteEnrol, signer: SigningKey) -> None:
    """Return if the request is signed with the key in it and meant for this coordinator.

    Raises:
        SignatureRejected: it is not.
    """
    _check(request, request.public_key)
    if request.coordinator_key_id != signer.key_id:
        raise SignatureRejected(
            f"the request is meant for coordinator {request.coordinator_key_id}; this is {signer.key_id}"
        )


def check_signed(tx: Transaction, caller: SiteCaller, message: SignedMessage) -> None:
    """Return if a message is signed with a live key of the calling site.

    Raises:
        SignatureRejected: it is not.
    """
    key = repository.key(tx, message.key_id)
    if key is None or key.site_id != caller.site_id or key.retired_at is not None:
        raise SignatureRejected(f"{message.key_id} is no live key of site {caller.site_name!r}")
    _check(message, key.public_key)


def exchange(tx: Transaction, assertion: str, signer: SigningKey, seconds: int) -> AccessToken:
    """Return an access token for an assertion that was never taken before.

    Raises:
        AuthenticationRequired: the assertion is not good, or its key is not.
        PermissionDenied: the site is suspended.
    """
    key = repository.key(tx, tokens.key_named_by(assertion))
    if key is None:
        raise tokens.not_valid()
    claims = tokens.read_assertion(assertion, key.public_key, signer.key_id, tx.now)
    caller = active_site(key, claims.sub)
    expires_at = datetime.fromtimestamp(claims.exp, UTC)
    if not repository.use_assertion(tx, sha256_hex(f"{caller.site_id} {claims.jti}"), expires_at):
        raise tokens.not_valid()
    return tokens.issue(signer, caller.site_id, caller.key_id, tx.now, seconds)


def add(tx: Transaction, caller: SiteCaller, request: SiteKeyAdd) -> SiteKeyRecord:
    """Add a second key; the same one again changes nothing.

    Raises:
        SignatureRejected: the old key or the new one has not signed this.
        TransitionNotAllowed: the site has two live keys, or this one is retired.
        AlreadyExists: the key is another site's.
    """
    check_signed(tx, caller, request)
    possession = request.possession
    _check(possession, possession.public_key)
    if possession.site_id != caller.site_id:
        raise SignatureRejected(f"the new key was signed for {possession.site_id}, not {caller.site_id}")
    there = repository.key(tx, possession.key_id)
    if there is not None:
        return _same(there, caller)
    if len(repository.live_keys(tx, caller.site_id)) >= MAX_LIVE_KEYS:
        raise TransitionNotAllowed(f"the site has {MAX_LIVE_KEYS} live keys; retire one first")
    key = insert(tx, caller.site_id, possession.public_key)
    events.record(
        tx,
        caller.federation_id,
        "site_key.added",
        key.id,
        site_id=caller.site_id,
        public_key=key.public_key,
    )
    return key


def retire(tx: Transaction, caller: SiteCaller, key_id: str, request: SiteKeyRetire) -> SiteKeyRecord:
    """Make a key worth nothing from the next request on; doing so again changes nothing.

    Raises:
        NotFound: the site has no such key.
        SignatureRejected: another live key of the site has not signed this.
    """
    key = repository.key(tx, key_id)
    if key is None or key.site_id != caller.site_id:
        raise NotFound(f"site {caller.site_name!r} has no key {key_id!r}")
    check_signed(tx, caller, request)
    if (request.site_id, request.retired_key_id) != (caller.site_id, key_id) or request.key_id == key_id:
        raise SignatureRejected(
            f"sign with another live key that {key_id} of {caller.site_id} is to be retired"
        )
    if key.retired_at is None:
        key.retired_at = tx.now
        events.record(tx, caller.federation_id, "site_key.retired", key.id, site_id=caller.site_id)
    return key


def insert(tx: Transaction, site_id: str, public_key: str) -> SiteKeyRecord:
    """Add a key, live from here on.

    Raises:
        AlreadyExists: it is known already, as this site's or another's.
    """
    key = SiteKeyRecord(id=key_id_of(public_key), site_id=site_id, public_key=public_key, created_at=tx.now)
    tx.session.add(key)
    try:
        tx.session.flush()
    except IntegrityError as error:
        raise AlreadyExists(f"{key.id} is known already; make another key") from error
    return key


def describe(key: SiteKeyRecord) -> SiteKey:
    """Return the key's message."""
    return SiteKey(key_id=key.id, public_key=key.public_key, created_at=key.created_at)


def _same(there: SiteKeyRecord, caller: SiteCaller) -> SiteKeyRecord:
    if there.site_id != caller.site_id:
        raise AlreadyExists(f"{there.id} is known already; make another key")
    if there.retired_at is not None:
        raise TransitionNotAllowed(f"{there.id} is retired, for good; make another key")
    return there


def _check(message: SignedMessage, public_key: str) -> None:
    try:
        message.check_signature(public_key)
    except SignatureError as error:
        raise SignatureRejected(str(error)) from error
