"""Who looks at a page: sign-in with the admin's credential, then a short-lived cookie.

Rules:
1. `admin_of` alone decides which credential signs in; it asks the same guard as the API.
2. The cookie names the admin's actor and an end, signed with a key that is derived from the admin token: another
   token ends every session. It is HttpOnly and SameSite=Strict, and Secure wherever the page came by HTTPS.
3. Every form carries a token that is bound to the session; a form without it, or from another origin, does nothing.
4. Whoever is not signed in is sent to the sign-in page and back again afterwards.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import jwt
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials
from starlette.responses import Response

from pfedbayespt.server.auth import AdminCaller, Allow, Role
from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.errors import CoordinatorError, PermissionDenied

COOKIE: Final = "pfedbayespt_session"
SESSION_SECONDS: Final = 3600
_ALGORITHM: Final = "HS256"
_UNCHECKED: Final[Any] = {"verify_exp": False, "verify_iat": False}  # rule: times are the database's
_OWN_PAGE: Final = re.compile(r"/ui(/[A-Za-z0-9_./?=&%-]*)?")


class SignInNeeded(Exception):  # noqa: N818 - not an error: it leads to a page
    """Nobody is signed in, or not any more."""


@dataclass(frozen=True)
class Session:
    """A signed-in admin; `csrf` is what each of their forms must carry."""

    caller: AdminCaller
    csrf: str
    ends_at: datetime


class SignedIn(Allow):
    """The declaration of a page: for signed-in admins."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, request: Request, context: ContextDep) -> Session:  # type: ignore[override]
        """Return the session.

        Raises:
            SignInNeeded: there is none that is good now.
        """
        session = session_of(context, request.cookies.get(COOKIE, ""))
        if session is None:
            raise SignInNeeded
        request.state.session = session
        return session


SessionDep = Annotated[Session, Depends(SignedIn())]


def admin_of(context: Context, credential: str) -> AdminCaller | None:
    """Return the admin whose credential this is, None if it is nobody's or not an admin's."""
    bearer = HTTPAuthorizationCredentials(scheme="Bearer", credentials=credential)
    try:
        caller = Allow(Role.ADMIN)(context, bearer)
    except CoordinatorError:
        return None
    return caller if isinstance(caller, AdminCaller) else None


def start(context: Context, request: Request, response: Response, caller: AdminCaller) -> None:
    """Give the browser a session: an hour, and no longer than the identity provider vouches for the person."""
    with context.database.read() as tx:
        seconds = SESSION_SECONDS
        if caller.good_until is not None:
            seconds = max(0, min(seconds, int(caller.good_until - tx.now.timestamp())))
        end = int(tx.now.timestamp()) + seconds
    claims = {"sub": caller.actor, "exp": end, "jti": secrets.token_hex(16)}
    value = jwt.encode(claims, _key(context, "session"), _ALGORITHM)
    response.set_cookie(
        COOKIE,
        value,
        max_age=seconds,
        path="/ui",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


def session_of(context: Context, cookie: str) -> Session | None:
    """Return the session that a cookie stands for, None if it is not good now."""
    try:
        claims = jwt.decode(cookie, _key(context, "session"), [_ALGORITHM], options=_UNCHECKED)
        actor, end, mark = str(claims["sub"]), int(claims["exp"]), str(claims["jti"])
    except (jwt.PyJWTError, KeyError, ValueError):
        return None
    with context.database.read() as tx:
        if end <= tx.now.timestamp():
            return None
        ends_at = datetime.fromtimestamp(end, tx.now.tzinfo)
    return Session(AdminCaller(actor=actor), _mac(_key(context, "form"), mark), ends_at)


def check_form(request: Request, session: Session, token: str) -> None:
    """Return if a form was sent from one of this session's own pages.

    Raises:
        PermissionDenied: it was not.
    """
    if not hmac.compare_digest(token.encode(), session.csrf.encode()):
        raise PermissionDenied("the form has grown old; go back, reload the page and send it again")
    check_origin(request)


def check_origin(request: Request) -> None:
    """Return unless the browser says that the request comes from another site.

    Raises:
        PermissionDenied: it does.
    """
    origin = request.headers.get("origin")
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"} or (
        origin is not None and origin.partition("://")[2] != request.headers.get("host")
    ):
        raise PermissionDenied("the form was sent from another site")


def own_page(path: str) -> str:
    """Return `path` if it is a page of this dashboard, else its first page: nobody is sent elsewhere."""
    return path if _OWN_PAGE.fullmatch(path) and "//" not in path else "/ui"


def _key(context: Context, purpose: str) -> bytes:
    secret = context.settings.admin_token.get_secret_value().encode()
    return hashlib.sha256(b"pfedbayespt.ui-" + purpose.encode() + b"/1\0" + secret).digest()


def _mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
