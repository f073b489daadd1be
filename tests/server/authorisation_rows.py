"""The rows of the authorisation matrix: what each operation is for, said a second time and independently.

To add an operation, add a row: who may call it on what is theirs. Everything else follows, for every kind of
principal and for their own and other people's objects (`expected`); `test_authorisation.py` fails for an operation
that has no row and for a row that has no operation.
"""

from dataclasses import dataclass
from typing import Any

ANYBODY, ADMIN, SITE = "anybody", "admin", "site"
LEAD, AUDITOR, PREDICTOR, ORG_ADMIN = "federation_lead", "auditor", "predictor", "org_admin"
STEERING, READING = (ADMIN, LEAD), (ADMIN, LEAD, AUDITOR)
MANAGING, OVERSEEING = (*STEERING, ORG_ADMIN), (*READING, ORG_ADMIN)
MEMBERS, PREDICTING = (*READING, SITE), (ADMIN, LEAD, PREDICTOR, SITE)


@dataclass(frozen=True)
class Principal:
    """A kind of caller.

    Attributes:
        name: as in the test's report.
        roles: what it is, if its credential is valid now.
        refusal: the problem that it gets wherever it is not let in at all.
        federations: where it belongs; None: everywhere.
        organisation: the only one that it may see; None: every one.
    """

    name: str
    roles: frozenset[str] = frozenset()
    refusal: str = "permission_denied"
    federations: frozenset[str] | None = frozenset()
    organisation: str | None = None


def _stranger(name: str) -> Principal:
    return Principal(name, refusal="authentication_required")


def _key(name: str, role: str, federation: str) -> Principal:
    return Principal(name, frozenset({role}), federations=frozenset({federation}))


def _site(name: str, federation: str, organisation: str = "clinic") -> Principal:
    return _tenant(name, SITE, federation, organisation)


def _tenant(name: str, role: str, federation: str, organisation: str = "clinic") -> Principal:
    """A caller who sees one organisation alone; the organisations of a federation are called after it."""
    belongs = frozenset({federation})
    return Principal(
        name, frozenset({role}), federations=belongs, organisation=f"{federation}-{organisation}"
    )


PRINCIPALS = (
    _stranger("nobody"),
    _stranger("garbage"),
    _stranger("JSON without end"),
    _stranger("not ASCII"),
    _stranger("wrong admin token"),
    _stranger("wrong site credential"),
    _stranger("unknown site"),
    _stranger("expired token"),
    _stranger("token of a retired key"),
    _stranger("revoked site"),
    Principal("suspended site"),
    _site("own site", "alpha"),
    _site("sibling of the same organisation", "alpha"),
    _site("peer of another organisation", "alpha", "hospital"),
    _site("site of another federation", "beta"),
    _stranger("revoked API key"),
    _stranger("spoilt API key"),
    _key("federation lead", LEAD, "alpha"),
    _key("auditor", AUDITOR, "alpha"),
    _key("predictor", PREDICTOR, "alpha"),
    _tenant("organisation admin", ORG_ADMIN, "alpha"),
    _tenant("admin of another organisation", ORG_ADMIN, "alpha", "hospital"),
    _tenant("organisation admin of another federation", ORG_ADMIN, "beta"),
    _key("lead of another federation", LEAD, "beta"),
    _key("auditor of another federation", AUDITOR, "beta"),
    _key("predictor of another federation", PREDICTOR, "beta"),
    Principal("admin", frozenset({ADMIN}), federations=None),
    _stranger("person whose token has expired"),
    Principal("person without a role"),
    _key("person who leads", LEAD, "alpha"),
    _key("person who audits", AUDITOR, "alpha"),
    _key("person who predicts", PREDICTOR, "alpha"),
    _tenant("person who administers an organisation", ORG_ADMIN, "alpha"),
    _key("person who leads another federation", LEAD, "beta"),
    Principal("person who is an admin", frozenset({ADMIN}), federations=None),
)


@dataclass(frozen=True)
class Row:
    """Who may call one operation.

    Attributes:
        roles: roles that may, on what belongs to them.
        own_name: the path names a site, and a site may only name itself.
        own_key: the path names a key, and a site sees its own keys only.
        own_organisation: what is asked for belongs to one organisation.
        own_update: the path names an update, and a site sees its own updates only.
        body: a JSON body, best one that is refused for its content, so that passing changes nothing; None: no body.
        is_upload: the body is a file.
    """

    roles: frozenset[str]
    own_name: bool = False
    own_key: bool = False
    own_organisation: bool = False
    own_update: bool = False
    body: Any = None
    is_upload: bool = False


def _for(*roles: str, **more: Any) -> Row:
    return Row(frozenset(roles), **more)


_FEDERATION, _ROUND, _VERSION = (
    "/v1/federations/{name}",
    "/v1/rounds/{round_id}",
    "/v1/federations/{name}/model-versions/{number}",
)

_UNSIGNED = {"key_id": f"key_{'0' * 32}", "signature": "A" * 86}
_RETIREMENT = {"site_id": "sit_0", "retired_key_id": f"key_{'0' * 32}", **_UNSIGNED}
_MODEL = "/v2/models/{name}"
_EVALUATION = {"num_examples": 1, "metrics": {}}

ROWS: dict[str, Row] = {
    "GET /livez": _for(ANYBODY),
    "GET /readyz": _for(ANYBODY),
    "GET /.well-known/pfedbayespt-coordinator": _for(ANYBODY),
    "POST /v1/sites": _for(ANYBODY, body={}),
    "POST /v1/token": _for(ANYBODY, body={}),
    "GET /v1/sites/me/keys": _for(SITE),
    "POST /v1/sites/me/keys": _for(SITE, body={}),
    "POST /v1/sites/me/keys/{key_id}/retire": _for(SITE, own_key=True, body=_RETIREMENT),
    "POST /v1/federations": _for(ADMIN, body={}),
    "GET /v1/federations": _for(ADMIN),
    f"GET {_FEDERATION}": _for(*MEMBERS, ORG_ADMIN),
    "POST /v1/organisations": _for(ADMIN, body={}),
    "GET /v1/organisations": _for(ADMIN),
    "GET /v1/organisations/{organisation}": _for(*MEMBERS, ORG_ADMIN, own_organisation=True),
    f"GET {_FEDERATION}/organisations": _for(*OVERSEEING),
    f"PUT {_FEDERATION}/initial-parameters": _for(*STEERING, is_upload=True),
    f"POST {_FEDERATION}/activate": _for(*STEERING),
    f"POST {_FEDERATION}/pause": _for(*STEERING),
    f"POST {_FEDERATION}/resume": _for(*STEERING),
    f"POST {_FEDERATION}/archive": _for(*STEERING),
    f"POST {_FEDERATION}/enrolment-tokens": _for(
        *MANAGING, own_organisation=True, body={"organisation": "of the place"}
    ),
    f"GET {_FEDERATION}/sites": _for(*OVERSEEING),
    "GET /v1/sites/me": _for(SITE),
    "GET /v1/sites/me/assignment": _for(SITE),
    "POST /v1/sites/me/leave": _for(SITE, body={}),
    "POST /v1/sites/{site_id}/suspend": _for(*STEERING),
    "POST /v1/sites/{site_id}/reinstate": _for(*STEERING),
    "POST /v1/sites/{site_id}/revoke": _for(*MANAGING, own_organisation=True),
    f"POST {_FEDERATION}/rounds": _for(*STEERING),
    f"GET {_FEDERATION}/rounds": _for(*MEMBERS),
    f"GET {_ROUND}": _for(*MEMBERS),
    f"POST {_ROUND}/close": _for(*STEERING),
    f"POST {_ROUND}/abandon": _for(*STEERING),
    f"PUT {_ROUND}/updates/{{site_id}}": _for(SITE, own_name=True, is_upload=True),
    f"GET {_ROUND}/updates": _for(*READING),
    "GET /v1/updates/{update_id}": _for(*READING),
    f"GET {_FEDERATION}/model-versions": _for(*MEMBERS),
    f"GET {_VERSION}": _for(*MEMBERS),
    f"GET {_VERSION}/parameters": _for(*MEMBERS),
    f"PUT {_VERSION}/evaluations/{{site_id}}": _for(SITE, own_name=True, body=_EVALUATION),
    f"GET {_VERSION}/lineage": _for(*MEMBERS),
    "GET /v1/updates/{update_id}/receipt": _for(*MEMBERS, own_update=True),
    "GET /v1/updates/{update_id}/parameters": _for(*READING),
    f"POST {_FEDERATION}/api-keys": _for(*STEERING, body={"organisation": "of the place", "name": "spare"}),
    f"GET {_FEDERATION}/api-keys": _for(*READING),
    "POST /v1/api-keys/{api_key_id}/revoke": _for(*STEERING),
    f"POST {_VERSION}/promote": _for(*STEERING),
    f"POST {_FEDERATION}/trials": _for(*STEERING, body={"model_version": 0}),
    f"GET {_FEDERATION}/trials": _for(*READING),
    f"GET {_FEDERATION}/trials/{{trial_id}}": _for(*READING),
    f"POST {_FEDERATION}/trials/{{trial_id}}/stop": _for(*STEERING),
    f"GET {_FEDERATION}/events": _for(*READING),
    "GET /v2": _for(ANYBODY),
    "GET /v2/health/live": _for(ANYBODY),
    "GET /v2/health/ready": _for(ANYBODY),
    f"GET {_MODEL}": _for(*MEMBERS),
    f"GET {_MODEL}/ready": _for(*MEMBERS),
    f"POST {_MODEL}/infer": _for(*MEMBERS, body={}),
    f"GET {_MODEL}/versions/{{version}}": _for(*MEMBERS),
    f"GET {_MODEL}/versions/{{version}}/ready": _for(*MEMBERS),
    f"POST {_MODEL}/versions/{{version}}/infer": _for(*MEMBERS, body={}),
    f"POST {_FEDERATION}/predictions": _for(*PREDICTING),
    f"POST {_FEDERATION}/predictions/batch": _for(*PREDICTING),
    "DELETE /v1/feature-cache": _for(*PREDICTING),
}


def expected(
    row: Row, principal: Principal, federation: str | None, organisation: str, *, names_itself: bool
) -> str | None:
    """Return the problem that the call must meet, None if it must pass.

    Args:
        row: the operation.
        principal: who calls.
        federation: whose object the path names; None: it names none.
        organisation: whose object it is, if it is one organisation's.
        names_itself: whether the site that the path names is the caller.
    """
    if ANYBODY in row.roles:
        return None
    if not principal.roles & row.roles:
        return principal.refusal
    is_at_home = principal.federations is None or federation in {None, *principal.federations}
    if row.own_name and not names_itself:
        return "permission_denied"
    if row.own_update and principal.roles == {SITE}:
        return "not_found"  # the world's update is of a site that does not call
    if row.own_key and not names_itself:
        return "not_found"
    if row.own_organisation and principal.organisation not in {None, organisation}:
        return "not_found"
    return None if is_at_home else "not_found"
