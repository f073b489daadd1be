"""The kinds of caller, and the one rule of tenancy that all of them obey (`may_see`)."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Who may call an operation."""

    ADMIN = "admin"
    LEAD = "federation_lead"
    ORG_ADMIN = "org_admin"
    AUDITOR = "auditor"
    PREDICTOR = "predictor"
    SITE = "site"

    @property
    def is_of_one_organisation(self) -> bool:
        """Whether its holders see nothing that belongs to another organisation than their own."""
        return self in {Role.ORG_ADMIN, Role.PREDICTOR, Role.SITE}


@dataclass(frozen=True)
class AdminCaller:
    """The holder of the admin token, or a person whom the identity provider calls one."""

    actor: str = "admin"
    role: Role = Role.ADMIN
    organisation: None = None
    site_id: None = None

    def belongs_to(self, federation_id: str) -> bool:  # noqa: ARG002
        """An admin sees every federation."""
        return True

    def tenant_in(self, federation_id: str) -> None:  # noqa: ARG002
        """An admin sees every organisation."""
        return


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

    def tenant_in(self, federation_id: str) -> str:  # noqa: ARG002
        """A site sees what belongs to its own organisation."""
        return self.organisation


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

    def tenant_in(self, federation_id: str) -> str | None:  # noqa: ARG002
        """Who leads or audits a federation sees all its organisations; others see their own."""
        return self.organisation if self.role.is_of_one_organisation else None


Caller = AdminCaller | SiteCaller | KeyCaller


def may_see(caller: Caller, federation_id: str, organisation: str) -> bool:
    """Whether what belongs to an organisation in a federation exists for the caller."""
    return caller.belongs_to(federation_id) and caller.tenant_in(federation_id) in {None, organisation}
