"""How pages answer: every refusal is a page too, and whoever is not signed in is asked to."""

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response

from pfedbayespt.server.errors import CoordinatorError
from pfedbayespt.server.problems import translate
from pfedbayespt.server.ui.rendering import page, redirect
from pfedbayespt.server.ui.session import SignInNeeded


class PageRoute(APIRoute):
    """A route whose errors are answered with pages, not with problem documents."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, wrapped."""
        answer = super().get_route_handler()

        async def answer_with_pages(request: Request) -> Response:
            try:
                return await answer(request)
            except SignInNeeded:
                return _ask_to_sign_in(request)
            except (CoordinatorError, RequestValidationError, HTTPException) as error:
                refusal = translate(error)
                return page(request, "refusal.html", refusal.problem.status, refusal=refusal)

        return answer_with_pages


def _ask_to_sign_in(request: Request) -> Response:
    if "hx-request" in request.headers:  # a fragment: have the whole page go there
        response = Response(status_code=401)
        response.headers["HX-Redirect"] = "/ui/sign-in"
        return response
    wanted = request.url.path if request.method == "GET" else "/ui"
    return redirect(f"/ui/sign-in?next={quote(wanted, safe='/')}")
