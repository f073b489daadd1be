"""How a site proves who it is: with its own key, never with a secret that the coordinator knows too.

A request needs an access token, which is good for minutes; a token needs an assertion that the site's key has
signed (`protocol.keys`). A token that is about to expire, or that the coordinator refuses, is replaced.
"""

import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime

import jwt

from pfedbayespt.client.errors import AuthenticationRequired
from pfedbayespt.protocol import (
    MAX_ASSERTION_SECONDS,
    AccessToken,
    SigningKey,
    UpdateManifest,
    UpdateStatement,
)

Exchange = Callable[[str], AccessToken]
"""Sends an assertion to the coordinator and returns the token it gives for it."""

_EARLY_SECONDS = 30.0


class SiteIdentity:
    """A site, its key, and the access token it holds now. Safe to use from several threads.

    Args:
        site_id: who the site is.
        key: the site's private key.
        coordinator_key_id: the coordinator that the site enrolled with; no other can use its assertions.
        clock: seconds since 1970.
        monotonic: seconds that never jump.
    """

    def __init__(
        self,
        site_id: str,
        key: SigningKey,
        coordinator_key_id: str,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.site_id = site_id
        self.key = key
        self._coordinator_key_id = coordinator_key_id
        self._clock = clock
        self._monotonic = monotonic
        self._ahead_seconds = 0.0
        self._token: str | None = None
        self._good_until = 0.0
        self._lock = threading.Lock()

    def access_token(self, exchange: Exchange) -> str:
        """Return a token that is good now, a new one if need be.

        Raises:
            AuthenticationRequired: the coordinator does not take this site's key (any more).
            ProblemError, TransportError: as `exchange`.
        """
        with self._lock:
            if self._token is None or self._monotonic() >= self._good_until:
                asked_at = self._monotonic()
                answer = self._exchanged(exchange)
                self._token = answer.access_token
                self._good_until = asked_at + answer.expires_in - _EARLY_SECONDS
            return self._token

    def forget(self, token: str) -> None:
        """Never use `token` again: the coordinator has refused it."""
        with self._lock:
            if self._token == token:
                self._token = None

    def use(self, key: SigningKey) -> None:
        """Sign with another key from here on."""
        with self._lock:
            self.key, self._token = key, None

    def statement(self, manifest: UpdateManifest, update_digest: str) -> UpdateStatement:
        """Return the signed statement that an update of this site is submitted with."""
        return UpdateStatement.signed(
            self.key,
            federation=manifest.federation,
            round_id=manifest.round_id,
            site_id=self.site_id,
            base_digest=manifest.base_digest,
            update_digest=update_digest,
            num_examples=manifest.num_examples,
            nonce=secrets.token_hex(16),
        )

    def _exchanged(self, exchange: Exchange) -> AccessToken:
        try:
            return exchange(self._assertion())
        except AuthenticationRequired as error:
            told = (error.problem.model_extra or {}).get("server_time")
            if not isinstance(told, str) or not self._set_clock(told):
                raise
            return exchange(self._assertion())

    def _set_clock(self, told: str) -> bool:
        """Go by the coordinator's clock from now on: this machine's is wrong. False if that is not a time."""
        try:
            self._ahead_seconds = datetime.fromisoformat(told).timestamp() - self._clock()
        except ValueError:
            return False
        return True

    def _assertion(self) -> str:
        now = int(self._clock() + self._ahead_seconds)
        claims = {
            "iss": self.site_id,
            "sub": self.site_id,
            "aud": self._coordinator_key_id,
            "iat": now,
            "exp": now + MAX_ASSERTION_SECONDS,
            "jti": secrets.token_hex(16),
        }
        return jwt.encode(claims, self.key.private, "EdDSA", headers={"kid": self.key.key_id})
