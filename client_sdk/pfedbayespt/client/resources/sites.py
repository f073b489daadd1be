"""Sites: how one joins, asks what to do next, and is managed."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import SecretStr

from pfedbayespt.client.connection import Connection, segment
from pfedbayespt.protocol import (
    Assignment,
    SigningKey,
    Site,
    SiteEnrol,
    SiteEnrolment,
    SiteKey,
    SiteKeyAdd,
    SiteKeyRetire,
    SiteLeave,
    SiteStatus,
)


@dataclass(frozen=True)
class Sites:
    """Operations on sites."""

    _connection: Connection

    def enrol(self, token: str, site_name: str, key: SigningKey, coordinator_key_id: str) -> SiteEnrolment:
        """Redeem an enrolment token for the site that holds `key`."""
        message = SiteEnrol.signed(
            key,
            token=SecretStr(token),
            site_name=site_name,
            public_key=key.public_key,
            coordinator_key_id=coordinator_key_id,
        )
        return self._connection.post("/v1/sites", SiteEnrolment, message)

    def list_keys(self) -> Iterator[SiteKey]:
        """Yield this site's live keys, oldest first (site)."""
        return self._connection.pages("/v1/sites/me/keys", SiteKey)

    def add_key(self, request: SiteKeyAdd) -> SiteKey:
        """Add a second key; repeating it is harmless (site)."""
        return self._connection.post("/v1/sites/me/keys", SiteKey, request)

    def retire_key(self, request: SiteKeyRetire) -> SiteKey:
        """Make a key worth nothing; repeating it is harmless (site)."""
        path = f"/v1/sites/me/keys/{segment(request.retired_key_id)}/retire"
        return self._connection.post(path, SiteKey, request)

    def me(self) -> Site:
        """Return the site whose identity this client holds (site)."""
        return self._connection.get("/v1/sites/me", Site)

    def assignment(self) -> Assignment:
        """Return what this site should do now; asking is also its sign of life (site)."""
        return self._connection.get("/v1/sites/me/assignment", Assignment)

    def leave(self, request: SiteLeave) -> Site:
        """Leave the federation for good, signed with a live key (site)."""
        return self._connection.post("/v1/sites/me/leave", Site, request)

    def list(
        self, federation: str, *, status: SiteStatus | None = None, organisation: str | None = None
    ) -> Iterator[Site]:
        """Yield the federation's sites, oldest first (admin)."""
        return self._connection.pages(
            f"/v1/federations/{segment(federation)}/sites", Site, status=status, organisation=organisation
        )

    def suspend(self, site_id: str) -> Site:
        """Ask nothing of the site, and take nothing from it, until it is reinstated (admin)."""
        return self._connection.post(f"/v1/sites/{segment(site_id)}/suspend", Site)

    def reinstate(self, site_id: str) -> Site:
        """End a suspension (admin)."""
        return self._connection.post(f"/v1/sites/{segment(site_id)}/reinstate", Site)

    def revoke(self, site_id: str) -> Site:
        """Make the site's keys worthless, for good (admin)."""
        return self._connection.post(f"/v1/sites/{segment(site_id)}/revoke", Site)
