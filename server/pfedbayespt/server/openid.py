"""The OpenID provider: a token that it signed about a person, for this coordinator.

Rules:
1. The provider is in the settings; no token names where a key is fetched. Its keys are found by discovery (OpenID
   Connect Discovery 1.0), over HTTPS or on this machine, and kept for minutes; a key that is not among them has
   them fetched anew, at most every half minute.
2. A token is signed with RS256 or ES256 by one of these keys, comes from the provider (`iss`), is for this
   coordinator (`aud`), names somebody (`sub`) and is for now (`exp`, `nbf`, `iat`), by the database's clock and
   the allowed skew.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import jwt

from pfedbayespt.server.errors import AuthenticationRequired, Overloaded

ALGORITHMS: Final = ("RS256", "ES256")
MAX_TOKEN_CHARACTERS: Final = 16_384
"""Providers put much into tokens; a header of a request is no longer than this anyway."""
_DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
_TIMEOUT_SECONDS: Final = 5.0
_AGAIN_AFTER_SECONDS: Final = 10.0
_MAX_DOCUMENT_BYTES: Final = 2**20
_TIMES: Final = ("exp", "nbf", "iat")
_OPTIONS: Final[Any] = {
    "require": ["iss", "aud", "sub", "exp"],
    "enforce_minimum_key_length": True,
    **{f"verify_{claim}": False for claim in _TIMES},  # we do, by the database's clock
}


class ProviderError(RuntimeError):
    """The provider cannot be asked, or what it tells of itself cannot be right."""


class OpenIdProvider:
    """The provider in the settings and its keys. Safe to use from several threads.

    Args:
        issuer: its URL, exactly as its tokens name it.
        audience: what its tokens call this coordinator.
        skew_seconds: how far its clock may be from the database's.
        refresh_seconds: a key that is unknown has the keys fetched anew at most this often.
        monotonic: seconds that never jump.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        skew_seconds: float,
        *,
        refresh_seconds: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer, self._audience = issuer, audience
        self._skew_seconds = skew_seconds
        self._refresh_seconds = refresh_seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._keys: jwt.PyJWKClient | None = None
        self._failed_at: float | None = None

    def has_issued(self, credential: str) -> bool:
        """Whether a credential claims to be this provider's; nothing is checked yet."""
        if credential.count(".") != 2 or len(credential) > MAX_TOKEN_CHARACTERS:
            return False
        try:
            claims = jwt.decode(credential, options={"verify_signature": False})
        except (jwt.PyJWTError, RecursionError, ValueError):
            return False
        return claims.get("iss") == self._issuer

    def verified(self, credential: str) -> dict[str, Any]:
        """Return the claims of a token of this provider for this coordinator; times are not checked yet.

        Raises:
            AuthenticationRequired: it is none.
            Overloaded: the provider's keys cannot be had now.
        """
        keys = self._discovered()
        try:
            key = keys.get_signing_key_from_jwt(credential)
            return jwt.decode(
                credential, key, ALGORITHMS, audience=self._audience, issuer=self._issuer, options=_OPTIONS
            )
        except jwt.PyJWKClientConnectionError as error:
            raise _unreachable(self._issuer) from error
        except (jwt.PyJWTError, RecursionError, ValueError) as error:
            raise AuthenticationRequired("the credential is not valid") from error

    def check_times(self, claims: Mapping[str, Any], now: datetime) -> None:
        """Return if verified claims are for now.

        Raises:
            AuthenticationRequired: they are not.
        """
        times = [claims.get(name) for name in _TIMES]
        if any(isinstance(each, bool) or not isinstance(each, int | float | None) for each in times):
            raise AuthenticationRequired("the credential is not valid")
        expires, not_before, issued = times
        seconds, skew = now.timestamp(), self._skew_seconds
        if expires is None or not expires + skew > seconds:
            raise AuthenticationRequired("the token has expired; sign in again")
        if any(start is not None and not start - skew <= seconds for start in (not_before, issued)):
            raise AuthenticationRequired(
                "the token is not good yet; compare the clocks", server_time=now.isoformat()
            )

    def _discovered(self) -> jwt.PyJWKClient:
        """Return what fetches and keeps the provider's keys; a provider that failed is left alone for a while."""
        with self._lock:
            if self._keys is not None:
                return self._keys
            if self._failed_at is not None and self._monotonic() - self._failed_at < _AGAIN_AFTER_SECONDS:
                raise _unreachable(self._issuer)
            try:
                self._keys = jwt.PyJWKClient(
                    discover(self._issuer),
                    timeout=_TIMEOUT_SECONDS,
                    cooldown_duration=self._refresh_seconds,
                )
            except ProviderError as error:
                self._failed_at = self._monotonic()
                raise _unreachable(self._issuer) from error
            return self._keys


def discover(issuer: str) -> str:
    """Return where the provider's keys are.

    Raises:
        ProviderError: it does not answer, or with something that cannot be right.
    """
    try:
        url = checked_url(issuer.removesuffix("/") + _DISCOVERY_PATH)
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310  (checked)
            document = json.loads(response.read(_MAX_DOCUMENT_BYTES))
        if document["issuer"] != issuer:
            raise ProviderError(f"{url} tells of issuer {document['issuer']!r}, expected {issuer!r}")
        return checked_url(str(document["jwks_uri"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ProviderError(f"{issuer}: {error}") from error


def checked_url(url: str) -> str:
    """Return a URL from which keys may be fetched.

    Raises:
        ValueError: anybody on the way could change what comes from there.
    """
    parts = urlsplit(url)
    is_here = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if parts.hostname is None or not (parts.scheme == "https" or (parts.scheme == "http" and is_here)):
        raise ValueError(f"{url!r} is not allowed; allowed: https://..., and http:// on this machine")
    return url


def _unreachable(issuer: str) -> Overloaded:
    return Overloaded(f"the identity provider {issuer} cannot be asked for its keys now; try again")
