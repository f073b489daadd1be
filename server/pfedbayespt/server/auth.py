"""Who calls, and whether they may: deny by default.

Rules:
1. Every operation declares who may call it with `Allow(...)`; `check_declared` refuses to start an app with
   one that does not.
2. A credential is looked up by the id in it and its SHA-256 is compared in constant time.
3. The principal is loaded anew for every request, so that a suspension or a revocation holds from the next
   request on.
4. What belongs to another federation does not exist for a site: it gets `not_found`, never a hint.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, Security
from fastapi.routing import APIRoute, APIRouter
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select

from pfedbayespt.protocol import SiteStatus
from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import AuthenticationRequired, NotFound, PermissionDenied
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.identifiers import same_secret
from pfedbayespt.server.sites.models import SiteRecord

SITE_SECRET_PREFIX = "site"  # noqa: S105  (the public first part of every site secret)
_BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="bearer",
    description="The admin token, or a site's secret (`site_...`).",
)


class Role(StrEnum):
    """Who may call an operation."""

    ADMIN = "admin"
    SITE = "site"


@dataclass(frozen=True)
class AdminCaller:
    """The holder of the admin token."""

    actor: str = "admin"
    role: Role = Role.ADMIN

    def belongs_to(self, federation_id: str) -> bool:  # noqa: ARG002
        """An admin sees every federation."""
        return True


@dataclass(frozen=True)
class SiteCaller:
    """An active site."""

    site_id: str
    site_name: str
    federation_id: str
    federation: str
    role: Role = Role.SITE

    @property
    def actor(self) -> str:
        """Who the events name."""
        return self.site_id

    def belongs_to(self, federation_id: str) -> bool:
        """A site sees its own federation and no other."""
        return self.federation_id == federation_id


Caller = AdminCaller | SiteCaller


class Allow:
    """The declaration, as a dependency: callers with one of these roles, and nobody else."""

    def __init__(self, *roles: Role) -> None:
        self.roles = frozenset(roles)

    def __call__(
        self,
        context: ContextDep,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)],
    ) -> Caller:
        """Return the caller.

        Raises:
            AuthenticationRequired: no credential, or none that is valid now.
            PermissionDenied: a valid one, of somebody who may not do this.
        """
        if credentials is None:
            raise AuthenticationRequired(
                "send the header `Authorization: Bearer <admin token or site secret>`"
            )
        caller = _identify(context, credentials.credentials)
        if caller.role not in self.roles:
            raise PermissionDenied(f"this operation is for: {', '.join(sorted(self.roles))}")
        return caller


class AllowEverybody(Allow):
    """The declaration of an operation that asks for no credential."""

    def __call__(self) -> None:  # type: ignore[override]
        """Let the caller pass."""


EVERYBODY = Depends(AllowEverybody())
Admin = Annotated[AdminCaller, Depends(Allow(Role.ADMIN))]
Site = Annotated[SiteCaller, Depends(Allow(Role.SITE))]
Member = Annotated[Caller, Depends(Allow(Role.ADMIN, Role.SITE))]


def check_declared(routers: Iterable[APIRouter]) -> None:
    """Return if every operation of every router declares who may call it, exactly once.

    Raises:
        RuntimeError: one does not.
    """
    for route in (route for router in routers for route in router.routes):
        guards = route.dependant.dependencies if isinstance(route, APIRoute) else []
        declared = sum(isinstance(guard.call, Allow) for guard in guards)
        if declared != 1:
            raise RuntimeError(
                f"{route!r} declares {declared} times who may call it; "
                "give it exactly one of Admin, Site, Member or EVERYBODY"
            )


def visible_federation(tx: Transaction, caller: Caller, name: str, *, lock: bool = False) -> FederationRecord:
    """Return the federation of that name, locked against other writers if asked.

    Raises:
        NotFound: there is none, or the caller is a site of another one.
    """
    query = select(FederationRecord).where(FederationRecord.name == name)
    record = tx.session.scalars(query.with_for_update() if lock else query).one_or_none()
    if record is None or not caller.belongs_to(record.id):
        raise NotFound(f"there is no federation {name!r}")
    return record


def _identify(context: Context, credential: str) -> Caller:
    admin_token = context.settings.admin_token.get_secret_value()
    if secrets.compare_digest(credential.encode(), admin_token.encode()):
        return AdminCaller()
    match credential.split("_", maxsplit=2):
        case [prefix, hexadecimal, secret] if prefix == SITE_SECRET_PREFIX:
            return _identify_site(context, f"sit_{hexadecimal}", secret)
    raise AuthenticationRequired("the credential is not valid")


def _identify_site(context: Context, site_id: str, secret: str) -> SiteCaller:
    with context.database.read() as tx:
        site = tx.session.get(SiteRecord, site_id)
        if site is None or not same_secret(secret, site.secret_sha256):
            raise AuthenticationRequired("the credential is not valid")
        if site.status == SiteStatus.REVOKED:
            raise AuthenticationRequired("the credential is not valid")
        if site.status != SiteStatus.ACTIVE:
            raise PermissionDenied(f"site {site.name!r} is {site.status}; only an active site may do this")
        return SiteCaller(site.id, site.name, site.federation_id, site.federation.name)
