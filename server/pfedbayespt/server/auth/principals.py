"""The kinds of caller."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Who may call an operation."""

    ADMIN = "admin"
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


Caller = AdminCaller | SiteCaller
