"""Sites: how one joins, asks what to do next, and is managed."""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import SecretStr

from pfedbayespt.client.connection import Connection, segment
from pfedbayespt.protocol import Assignment, Site, SiteCredentials, SiteEnrol, SiteLeave


@dataclass(frozen=True)
class Sites:
    """Operations on sites."""

    _connection: Connection

    def enrol(self, token: str, site_name: str) -> SiteCredentials:
        """Redeem an enrolment token. The secret in the answer is shown this once."""
        message = SiteEnrol(token=SecretStr(token), site_name=site_name)
        return self._connection.post("/v1/sites", SiteCredentials, message)

    def me(self) -> Site:
        """Return the site whose secret this client holds (site)."""
        return self._connection.get("/v1/sites/me", Site)

    def assignment(self) -> Assignment:
        """Return what this site should do now; asking is also its sign of life (site)."""
        return self._connection.get("/v1/sites/me/assignment", Assignment)

    def leave(self, site_name: str) -> Site:
        """Leave the federation for good (site). `site_name` is the site's own."""
        return self._connection.post("/v1/sites/me/leave", Site, SiteLeave(site_name=site_name))

    def list(self, federation: str) -> Iterator[Site]:
        """Yield the federation's sites, oldest first (admin)."""
        return self._connection.pages(f"/v1/federations/{segment(federation)}/sites", Site)

    def suspend(self, site_id: str) -> Site:
        """Ask nothing of the site, and take nothing from it, until it is reinstated (admin)."""
        return self._connection.post(f"/v1/sites/{segment(site_id)}/suspend", Site)

    def reinstate(self, site_id: str) -> Site:
        """End a suspension (admin)."""
        return self._connection.post(f"/v1/sites/{segment(site_id)}/reinstate", Site)

    def revoke(self, site_id: str) -> Site:
        """Make the site's secret worthless, for good (admin)."""
        return self._connection.post(f"/v1/sites/{segment(site_id)}/revoke", Site)
