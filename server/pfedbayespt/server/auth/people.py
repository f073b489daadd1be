"""People: which roles the claims of the OpenID provider give them.

One claim holds the roles, a list of texts:

    admin                                                       everything
    federation_lead:NAME, auditor:NAME                          in one federation
    org_admin:NAME:ORGANISATION, predictor:NAME:ORGANISATION    in one federation, for one organisation

A text that is none of these gives nothing, for providers tell of much that is not about us.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from sqlalchemy import select

from pfedbayespt.server.auth.principals import AdminCaller, Grant, PersonCaller, Role
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.federations.models import FederationRecord

_MAX_ACTOR_CHARACTERS: Final = 64
_DIGEST_CHARACTERS: Final = 32
_MAX_GRANTS: Final = 200
_OF_ONE_FEDERATION: Final = {role.value: role for role in (Role.LEAD, Role.AUDITOR)}
_OF_ONE_ORGANISATION: Final = {role.value: role for role in (Role.ORG_ADMIN, Role.PREDICTOR)}


def caller_of(tx: Transaction, claims: Mapping[str, Any], roles_claim: str) -> AdminCaller | PersonCaller:
    """Return whom verified claims speak of, with the roles that they give."""
    actor = _actor(str(claims["sub"]))
    told = _roles(claims.get(roles_claim))
    if Role.ADMIN.value in told:
        return AdminCaller(actor=actor, good_until=float(claims["exp"]))
    return PersonCaller(actor, tuple(_grants(tx, told)))


def _actor(subject: str) -> str:
    """Return the name that events have for a person: a long one is cut, and stays its own by its digest."""
    actor = f"oidc:{subject}"
    if len(actor) <= _MAX_ACTOR_CHARACTERS:
        return actor
    digest = hashlib.sha256(subject.encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{actor[: _MAX_ACTOR_CHARACTERS - _DIGEST_CHARACTERS - 1]}~{digest}"


def _roles(told: object) -> list[str]:
    texts = [told] if isinstance(told, str) else told
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


def _grants(tx: Transaction, told: Iterable[str]) -> Iterator[Grant]:
    """Yield what the roles give in federations that there are."""
    parsed = [grant for grant in map(_parsed, told) if grant is not None][:_MAX_GRANTS]
    query = select(FederationRecord.name, FederationRecord.id)
    found = tx.session.execute(query.where(FederationRecord.name.in_({name for _, name, _ in parsed})))
    ids: dict[str, str] = dict(iter(found))
    for role, name, organisation in parsed:
        if name in ids:
            yield Grant(role, ids[name], organisation)


def _parsed(text: str) -> tuple[Role, str, str | None] | None:
    match text.split(":"):
        case [role, name] if role in _OF_ONE_FEDERATION:
            return _OF_ONE_FEDERATION[role], name, None
        case [role, name, organisation] if role in _OF_ONE_ORGANISATION and organisation:
            return _OF_ONE_ORGANISATION[role], name, organisation
    return None
