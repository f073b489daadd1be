"""Signing in and out."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from pfedbayespt.server.auth import EVERYBODY
from pfedbayespt.server.context import ContextDep
from pfedbayespt.server.ui.pages import PageRoute
from pfedbayespt.server.ui.rendering import page, redirect
from pfedbayespt.server.ui.session import (
    COOKIE,
    SessionDep,
    admin_of,
    check_form,
    check_origin,
    own_page,
    start,
)

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
Wanted = Annotated[str, Query(alias="next", max_length=200)]


@router.get("/sign-in", dependencies=[EVERYBODY])
def ask(request: Request, wanted: Wanted = "/ui") -> Response:
    """Ask for the admin token."""
    return page(request, "sign_in.html", wanted=own_page(wanted), is_refused=False)


@router.post("/sign-in", dependencies=[EVERYBODY])
async def sign_in(
    request: Request,
    context: ContextDep,
    token: Annotated[str, Form(max_length=4096)],
    wanted: Annotated[str, Form(alias="next", max_length=200)] = "/ui",
) -> Response:
    """Start a session, if the token is an admin's."""
    check_origin(request)
    caller = await run_in_threadpool(admin_of, context, token.strip())
    if caller is None:
        return page(request, "sign_in.html", 401, wanted=own_page(wanted), is_refused=True)
    response = redirect(own_page(wanted))
    start(context, request, response, caller)
    return response


@router.post("/sign-out")
def sign_out(request: Request, session: SessionDep, csrf: Annotated[str, Form(max_length=64)]) -> Response:
    """Forget the session."""
    check_form(request, session, csrf)
    response = redirect("/ui/sign-in")
    response.delete_cookie(COOKIE, path="/ui", httponly=True, samesite="strict")
    return response
