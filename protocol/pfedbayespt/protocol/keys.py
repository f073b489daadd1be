"""Who speaks: the coordinator's key, a site's keys, and short-lived access tokens (RFC 7523, `private_key_jwt`).

A site's assertion is a JWT, `alg` EdDSA, `kid` the id of the site's key, with the claims

    iss = sub    the site's id
    aud          the id of the coordinator's key, so that no other coordinator can use it
    iat, exp     at most `MAX_ASSERTION_SECONDS` apart
    jti          unique; the coordinator takes each once
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from pfedbayespt.protocol._base import Message, Slug, UtcTime
from pfedbayespt.protocol.signatures import KeyId, PublicKey, SignedMessage

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MAX_ASSERTION_SECONDS: Final = 60
IDENTITY_PATH: Final = "/.well-known/pfedbayespt-coordinator"
MAX_LIVE_KEYS: Final = 2


class CoordinatorIdentity(Message):
    """The coordinator's public key. Sites pin it when they enrol."""

    key_id: KeyId
    public_key: PublicKey


class TokenRequest(Message):
    """Ask for an access token (RFC 6749 section 4.4 with RFC 7523 section 2.2): a form, not JSON."""

    grant_type: Literal["client_credentials"] = "client_credentials"
    client_assertion_type: Literal["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"] = ASSERTION_TYPE
    client_assertion: Annotated[str, Field(max_length=4096, description="The JWT that the site signed.")]


class AccessToken(Message):
    """A bearer token that is good for minutes, and only while the key that asked for it is."""

    access_token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105  (the name of a scheme)
    expires_in: int = Field(ge=1, description="Seconds.")


class SiteKey(Message):
    """One of a site's public keys."""

    key_id: KeyId
    public_key: PublicKey
    created_at: UtcTime


class ApiKeyRole(StrEnum):
    """What an API key lets its holder do in its federation."""

    FEDERATION_LEAD = "federation_lead"
    ORG_ADMIN = "org_admin"
    AUDITOR = "auditor"
    PREDICTOR = "predictor"


class ApiKeyCreate(Message):
    """Ask for an API key on behalf of an organisation."""

    organisation: Slug
    name: Slug = Field(description="What it is for.")
    role: ApiKeyRole = ApiKeyRole.PREDICTOR


class ApiKey(Message):
    """An API key, without its secret."""

    api_key_id: str
    federation: Slug
    organisation: Slug
    name: Slug
    role: ApiKeyRole
    created_at: UtcTime
    revoked_at: UtcTime | None


class NewApiKey(Message):
    """A new API key, shown this once: the coordinator keeps only the SHA-256 of its secret."""

    key: str
    api_key: ApiKey


class KeyPossession(SignedMessage):
    """Signed with a new key: whoever asks for it to be added has its private half."""

    purpose: ClassVar[str] = "pfedbayespt.key-possession/1"

    site_id: str = Field(max_length=64)
    public_key: PublicKey


class SiteKeyAdd(SignedMessage):
    """Ask for a second key, signed with a live one: a stolen access token cannot add a key."""

    purpose: ClassVar[str] = "pfedbayespt.site-key-add/1"

    possession: KeyPossession


class SiteKeyRetire(SignedMessage):
    """Ask that a key be good for nothing any more, signed with another live one."""

    purpose: ClassVar[str] = "pfedbayespt.site-key-retire/1"

    site_id: str = Field(max_length=64)
    retired_key_id: KeyId
