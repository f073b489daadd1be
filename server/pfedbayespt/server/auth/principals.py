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
    """The holder of the admin token, or a person whom the identity provider calls one.

    Attributes:
        good_until: seconds since the epoch after which the provider's word is good no more; None: no such word.
    """

    actor: str = "admin"
    good_until: float | None = None
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


@dataclass(frozen=True)
class Grant:
    """A role in one federation; `organisation` is set where the role is for one."""

    role: Role
    federation_id: str
    organisation: str | None


@dataclass(frozen=True)
class PersonCaller:
    """A person, with the roles that the identity provider gives them."""

    actor: str
    grants: tuple[Grant, ...]
    organisation: None = None
    site_id: None = None

    @property
    def role(self) -> Role:
        """The first of them; what a role allows is decided by `acting_as` and by federation."""
        return self.grants[0].role

    def acting_as(self, roles: frozenset[Role]) -> "PersonCaller | None":
        """Return the person with those of the roles only, None if they have none of them."""
        grants = tuple(grant for grant in self.grants if grant.role in roles)
        return PersonCaller(self.actor, grants) if grants else None

    def belongs_to(self, federation_id: str) -> bool:
        """A person sees the federations in which they have a role."""
        return any(grant.federation_id == federation_id for grant in self.grants)

    def tenant_in(self, federation_id: str) -> str | None:
        """A person sees all organisations where they lead or audit, elsewhere the one that they act for."""
        tenants = [grant.organisation for grant in self.grants if grant.federation_id == federation_id]
        return None if None in tenants else next(iter(tenants), "")


Caller = AdminCaller | SiteCaller | KeyCaller | PersonCaller


def may_see(caller: Caller, federation_id: str, organisation: str) -> bool:
    """Whether what belongs to an organisation in a federation exists for the caller."""
    return caller.belongs_to(federation_id) and caller.tenant_in(federation_id) in {None, organisation}
