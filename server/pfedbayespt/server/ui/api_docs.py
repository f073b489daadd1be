"""`/docs`: Swagger UI from this host's own files, so that it works where nothing else can be reached."""

from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from pfedbayespt.server.auth import EVERYBODY
from pfedbayespt.server.ui.rendering import page

router = APIRouter(include_in_schema=False, dependencies=[EVERYBODY])
PATH: Final = "/docs"


@router.get(PATH)
def show_api(request: Request) -> Response:
    """Show every operation of the API, to read and to try."""
    return page(request, "api_docs.html")
