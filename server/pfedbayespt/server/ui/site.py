"""Putting the pages into the application."""

import re
from collections import Counter
from typing import Final

from fastapi import APIRouter, FastAPI
from starlette.staticfiles import StaticFiles

from pfedbayespt.server.ui import acting, audit, founding, reading, signing_in, stream, trying
from pfedbayespt.server.ui import api_docs as api
from pfedbayespt.server.ui.rendering import STATIC
from pfedbayespt.server.ui.uploads import UploadsUnderWay

_DASHBOARD: Final = (signing_in, reading, founding, acting, audit, stream, trying)
IMAGE_FORMS: Final = re.compile(r"/ui/federations/[^/]+/try")
"""Paths whose bodies hold an image."""
TENSOR_FORMS: Final = re.compile(r"/ui/federations/[^/]+/initial-parameters")
"""Paths whose bodies hold a tensor file."""
FORM_ENVELOPE_BYTES: Final = 64 * 1024
"""What a form takes beside the file in it."""


def routers(*, dashboard: bool, api_docs: bool) -> list[APIRouter]:
    """Return the pages' routers: the dashboard where rounds are run, the API's documentation where it is public."""
    pages = [module.router for module in _DASHBOARD] if dashboard else []
    return [*pages, api.router] if api_docs else pages


def install(app: FastAPI) -> None:
    """Give `app` the files that the pages load, and what the pages keep in this process."""
    app.mount("/ui/static", StaticFiles(directory=STATIC), name="ui-static")
    app.state.ui_streams = [0]
    app.state.ui_uploads = under_way = Counter[tuple[str, str]]()
    app.add_middleware(UploadsUnderWay, under_way=under_way)
