"""Who calls, and whether they may: deny by default.

Rules:
1. Every operation declares who may call it with `Allow(...)`; `check_declared` refuses to start an app with
   one that does not.
2. A site calls with an access token (`tokens`), people with the OpenID provider's if there is one (`people`),
   others with an API key (`api_keys`), the local admin with the admin token; secrets are compared in constant time.
3. The principal is loaded anew for every request, so that a suspension or a revocation holds from the next
   request on.
4. What belongs to another federation, or to another organisation for whom that matters (`may_see`), does not exist
   for the caller: it gets `not_found`, never a hint.
"""

import secrets
from collections.abc import Iterable
from typing import Annotated

from fastapi import Depends, Security
from fastapi.routing import APIRoute, APIRouter
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select

from pfedbayespt.protocol import SiteStatus
from pfedbayespt.server.auth import api_keys, people, tokens
from pfedbayespt.server.auth.principals import AdminCaller, Caller, KeyCaller, PersonCaller, Role, SiteCaller
from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import AuthenticationRequired, NotFound, PermissionDenied
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.openid import OpenIdProvider
from pfedbayespt.server.sites.models import SiteKeyRecord

_BEARER = HTTPBearer(
    auto_error=False,
    scheme_name="bearer",
    description="The admin token, an API key, a site's access token (`POST /v1/token`), or an OpenID token.",
)


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

        Requests of people and with API keys are counted, per kind of operation, so that nobody takes all.

        Raises:
            AuthenticationRequired: no credential, or none that is valid now.
            PermissionDenied: a valid one, of somebody who may not do this.
            RateLimited: too many requests of this caller, or of this organisation, within the last minute.
            Overloaded: the OpenID provider's keys are needed, and cannot be had now.
        """
        if credentials is None:
            raise AuthenticationRequired(
                "send the header `Authorization: Bearer <admin token, API key or access token>`"
            )
        caller = _identify(context, credentials.credentials)
        allowed = self._as_allowed(caller)
        if allowed is None:
            raise PermissionDenied(f"this operation is for: {', '.join(sorted(self.roles))}")
        if isinstance(allowed, KeyCaller | PersonCaller):
            of = allowed.organisation or allowed.actor
            context.rates.count(allowed.actor, of, "+".join(sorted(self.roles)))
        return allowed

    def _as_allowed(self, caller: Caller) -> Caller | None:
        if isinstance(caller, PersonCaller):
            return caller.acting_as(self.roles)
        return caller if caller.role in self.roles else None


class AllowEverybody(Allow):
    """The declaration of an operation that asks for no credential."""

    def __call__(self) -> None:  # type: ignore[override]
        """Let the caller pass."""


Steward = AdminCaller | KeyCaller | PersonCaller
EVERYBODY = Depends(AllowEverybody())
Admin = Annotated[AdminCaller, Depends(Allow(Role.ADMIN))]
Site = Annotated[SiteCaller, Depends(Allow(Role.SITE))]
Steering = Annotated[Steward, Depends(Allow(Role.ADMIN, Role.LEAD))]
Reading = Annotated[Steward, Depends(Allow(Role.ADMIN, Role.LEAD, Role.AUDITOR))]
Managing = Annotated[Steward, Depends(Allow(Role.ADMIN, Role.LEAD, Role.ORG_ADMIN))]
Overseeing = Annotated[Steward, Depends(Allow(Role.ADMIN, Role.LEAD, Role.ORG_ADMIN, Role.AUDITOR))]
Belonging = Annotated[Caller, Depends(Allow(Role.ADMIN, Role.LEAD, Role.ORG_ADMIN, Role.AUDITOR, Role.SITE))]
MEMBER = Allow(Role.ADMIN, Role.LEAD, Role.AUDITOR, Role.SITE)
Member = Annotated[Caller, Depends(MEMBER)]
PREDICTING = Allow(Role.ADMIN, Role.LEAD, Role.PREDICTOR, Role.SITE)
Predicting = Annotated[Caller, Depends(PREDICTING)]


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
                "give it exactly one of the declarations of `auth`, such as Admin, Member or EVERYBODY"
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
        if not context.settings.local_admin:
            raise tokens.not_valid()
        return AdminCaller()
    if context.people is not None and context.people.has_issued(credential):
        return _person(context, context.people, credential)
    with context.database.read() as tx:
        if api_keys.is_one(credential):
            return api_keys.identify(tx, credential)
        access = tokens.read_access_token(context.signer, credential, tx.now)
        key = tx.session.get(SiteKeyRecord, access.key)
        return active_site(key, access.sub)


def _person(context: Context, provider: OpenIdProvider, credential: str) -> Caller:
    claims = provider.verified(credential)  # may ask the provider, so outside of a transaction
    with context.database.read() as tx:
        provider.check_times(claims, tx.now)
        return people.caller_of(tx, claims, context.settings.oidc_roles_claim)


def active_site(key: SiteKeyRecord | None, site_id: str) -> SiteCaller:
    """Return the caller that holds a key.

    Raises:
        AuthenticationRequired: the key is unknown, retired or another site's, or the site is revoked.
        PermissionDenied: the site is suspended.
    """
    if key is None or key.retired_at is not None or key.site_id != site_id:
        raise tokens.not_valid()
    site = key.site
    if site.status == SiteStatus.REVOKED:
        raise tokens.not_valid()
    if site.status != SiteStatus.ACTIVE:
        raise PermissionDenied(f"site {site.name!r} is {site.status}; only an active site may do this")
    return SiteCaller(site.id, site.name, site.federation_id, site.federation.name, site.organisation, key.id)
