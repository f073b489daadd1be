"""Assertions and access tokens: what is inside, and what makes one good (RFC 7523; see `protocol.keys`).

Rules:
1. A signature is checked before anything that it covers is believed, and times are compared with the database's.
2. An assertion is good once: the id of each one that was taken is kept until it has expired, in the database, so
   that no other process takes it either.
3. An access token names the site and the key that asked for it. Both are looked up for every request, so that a
   suspension, a revocation or a retired key holds from the next request on.
"""

from datetime import datetime, timedelta
from typing import Annotated, Any, Final, TypeVar

import jwt
from pydantic import Field, ValidationError

from pfedbayespt.protocol import (
    MAX_ASSERTION_SECONDS,
    AccessToken,
    KeyId,
    Message,
    SigningKey,
    public_key_of,
)
from pfedbayespt.server.errors import AuthenticationRequired

MAX_TOKEN_CHARACTERS: Final = 4096
_ALGORITHM: Final = "EdDSA"
_CLOCK_SKEW: Final = timedelta(seconds=5)
_UNCHECKED: Final = {f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")}
Seconds = Annotated[int, Field(strict=True, ge=0, lt=2**40)]
Claims = TypeVar("Claims", bound=Message)


class AssertionClaims(Message):
    """What a site says about itself when it asks for a token."""

    iss: str = Field(max_length=64)
    sub: str = Field(max_length=64)
    aud: KeyId
    iat: Seconds
    exp: Seconds
    jti: str = Field(min_length=16, max_length=64)


class AccessClaims(Message):
    """What an access token says."""

    iss: KeyId
    sub: str = Field(max_length=64)
    key: KeyId
    iat: Seconds
    exp: Seconds


def not_valid() -> AuthenticationRequired:
    """Return the refusal that says nothing about why."""
    return AuthenticationRequired("the credential is not valid")


def issue(signer: SigningKey, site_id: str, key_id: str, now: datetime, seconds: int) -> AccessToken:
    """Return an access token for a site that has just proved that it holds `key_id`."""
    claims = AccessClaims(
        iss=signer.key_id,
        sub=site_id,
        key=key_id,
        iat=int(now.timestamp()),
        exp=int(now.timestamp()) + seconds,
    )
    text = jwt.encode(
        claims.model_dump(), signer.private, _ALGORITHM, headers={"kid": signer.key_id, "typ": "at+jwt"}
    )
    return AccessToken(access_token=text, expires_in=seconds)


def read_access_token(signer: SigningKey, token: str, now: datetime) -> AccessClaims:
    """Return what an access token of this coordinator says.

    Raises:
        AuthenticationRequired: it is not one, or has expired.
    """
    claims = _verified(token, signer.public_key, AccessClaims)
    if claims.iss != signer.key_id or claims.exp <= now.timestamp():
        raise not_valid()
    return claims


def key_named_by(assertion: str) -> str:
    """Return the id of the key that an assertion says it is signed with; nothing is checked yet.

    Raises:
        AuthenticationRequired: it says none.
    """
    if len(assertion) > MAX_TOKEN_CHARACTERS:
        raise not_valid()
    try:
        named: object = jwt.get_unverified_header(assertion).get("kid")
    except (jwt.PyJWTError, RecursionError, ValueError) as error:
        raise not_valid() from error
    if not isinstance(named, str):
        raise not_valid()
    return named


def read_assertion(assertion: str, public_key: str, audience: str, now: datetime) -> AssertionClaims:
    """Return what an assertion says, after every check but that it is new.

    Raises:
        AuthenticationRequired: it is not signed with that key, not for this coordinator, or not for now.
    """
    claims = _verified(assertion, public_key, AssertionClaims)
    if claims.aud != audience or claims.iss != claims.sub:
        raise not_valid()
    if not 0 < claims.exp - claims.iat <= MAX_ASSERTION_SECONDS:
        raise AuthenticationRequired(f"an assertion is for at most {MAX_ASSERTION_SECONDS} seconds")
    seconds, skew = now.timestamp(), _CLOCK_SKEW.total_seconds()
    if claims.iat > seconds + skew or claims.exp <= seconds:
        raise AuthenticationRequired(
            "the assertion is not for now; compare the clocks", server_time=now.isoformat()
        )
    return claims


def _verified(token: str, public_key: str, claims: type[Claims]) -> Claims:
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise not_valid()
    options: Any = {"verify_signature": True, **_UNCHECKED}
    try:
        content = jwt.decode(token, public_key_of(public_key), [_ALGORITHM], options=options)
        return claims.model_validate(content)
    except (jwt.PyJWTError, ValidationError, RecursionError, ValueError) as error:
        raise not_valid() from error
