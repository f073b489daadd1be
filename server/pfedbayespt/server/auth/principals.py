"""The kinds of caller."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Who may call an operation."""

    ADMIN = "admin"
    LEAD = "federation_lead"
    AUDITOR = "auditor"
    PREDICTOR = "predictor"
    SITE = "site"


@dataclass(frozen=True)
class AdminCaller:
    """The holder of the admin token."""

    actor: str = "admin"
    role: Role = Role.ADMIN
    organisation: None = None
    site_id: None = None

    def belongs_to(self, federation_id: str) -> bool:  # noqa: ARG002
        """An admin sees every federation."""
        return True

    def may_know(self, organisation: str) -> bool:  # noqa: ARG002
        """An admin knows every organisation."""
        return True


@dataclass(frozen=True)
class SiteCaller:
    """An active site, and the key that asked for its access token."""

    site_id: str
    site_name: str
    federation_id: str
    federation: str
    organisation: str
    key_id: str
    role: Role = Role.SITE

    @property
    def actor(self) -> str:
        """Who the events name."""
        return self.site_id

    def belongs_to(self, federation_id: str) -> bool:
        """A site sees its own federation and no other."""
        return self.federation_id == federation_id

    def may_know(self, organisation: str) -> bool:
        """A site knows the names of its own organisation's sites."""
        return self.organisation == organisation


@dataclass(frozen=True)
class KeyCaller:
    """The holder of an API key: a role in one federation, on behalf of one organisation."""

    api_key_id: str
    role: Role
    organisation: str
    federation_id: str
    federation: str
    site_id: None = None

    @property
    def actor(self) -> str:
        """Who the events name."""
        return self.api_key_id

    def belongs_to(self, federation_id: str) -> bool:
        """A key is good for its own federation and no other."""
        return self.federation_id == federation_id

    def may_know(self, organisation: str) -> bool:  # noqa: ARG002
        """Who leads or audits a federation knows its members."""
        return self.role in {Role.LEAD, Role.AUDITOR}


Caller = AdminCaller | SiteCaller | KeyCaller
