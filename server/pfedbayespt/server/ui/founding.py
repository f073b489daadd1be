"""Founding a federation from the pages: its terms from a form, then the file of its initial parameters.

Rules:
1. What was typed comes back with every answer: beside its faults, and behind the question whether it is meant.
2. Both call what the API's operations call, as the signed-in admin; nothing changes before it is confirmed.
3. Who is not signed in sends no file: the body is read after the session was.
"""

from collections.abc import Mapping
from typing import Final

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import Response

from pfedbayespt.protocol import FederationCreate, FederationStatus, digest_of_message
from pfedbayespt.server.context import Context, ContextDep
from pfedbayespt.server.errors import AlreadyExists, CoordinatorError, InvalidRequest, ParametersRejected
from pfedbayespt.server.federations import endpoints as federations
from pfedbayespt.server.federations import repository
from pfedbayespt.server.paths import FederationName
from pfedbayespt.server.ui import terms
from pfedbayespt.server.ui.pages import PageRoute
from pfedbayespt.server.ui.reading import overview_of
from pfedbayespt.server.ui.rendering import page, redirect
from pfedbayespt.server.ui.session import Session, SessionDep, check_form
from pfedbayespt.server.uploads import in_upload_thread

router = APIRouter(prefix="/ui", route_class=PageRoute, include_in_schema=False)
_CHUNK_BYTES: Final = 2**20


@router.get("/create")
def ask_for_terms(request: Request, _: SessionDep) -> Response:
    """Show the form, filled with the defaults."""
    return _form(request, terms.at_first())


@router.post("/create")
async def take_terms(request: Request, context: ContextDep, session: SessionDep) -> Response:
    """Check what was typed, ask whether it is meant, and create the draft once it is."""
    async with request.form(max_files=0) as form:
        check_form(request, session, str(form.get("csrf", "")))
        typed = {field.key: str(form.get(field.key, "")) for field in terms.FIELDS}
        step = str(form.get("step", "review"))
    return await run_in_threadpool(_answer, request, context, session, typed, step)


@router.get("/federations/{name}/initial-parameters")
def ask_for_parameters(
    name: FederationName, request: Request, context: ContextDep, session: SessionDep
) -> Response:
    """Ask for the file of version 0."""
    return _file_form(request, context, session, name)


@router.post("/federations/{name}/initial-parameters")
async def take_parameters(
    name: FederationName, request: Request, context: ContextDep, session: SessionDep
) -> Response:
    """Make the uploaded file version 0."""
    async with request.form(max_files=1, max_fields=2) as form:
        check_form(request, session, str(form.get("csrf", "")))
        file = form.get("file")
        try:
            await _keep(context, session, name, file)
        except (InvalidRequest, ParametersRejected, AlreadyExists) as error:
            return await run_in_threadpool(_file_form, request, context, session, name, error)
    return redirect(f"/ui/federations/{name}")


def _answer(
    request: Request, context: Context, session: Session, typed: Mapping[str, str], step: str
) -> Response:
    if step == "edit":
        return _form(request, typed)
    try:
        asked = terms.read(typed)
    except ValidationError as error:
        return _form(request, typed, 422, terms.faults_of(error, typed))
    try:
        if step != "create":
            return _review(request, context, typed, asked)
        federations.create_federation(asked, context, session.caller)
    except AlreadyExists as error:
        return _form(request, typed, error.problem.status, {"name": error.detail})
    return redirect(f"/ui/federations/{asked.name}")


def _form(
    request: Request, typed: Mapping[str, str], status: int = 200, faults: Mapping[str, str] | None = None
) -> Response:
    return page(
        request,
        "create.html",
        status,
        groups=terms.GROUPS,
        fields=terms.FIELDS,
        typed=typed,
        faults=faults or {},
        elsewhere=(faults or {}).get(terms.ELSEWHERE),
    )


def _review(
    request: Request, context: Context, typed: Mapping[str, str], asked: FederationCreate
) -> Response:
    with context.database.read() as tx:
        if repository.exists(tx, asked.name):
            raise AlreadyExists(f"there is a federation {asked.name!r} already; choose another name")
    return page(
        request,
        "create_review.html",
        groups=terms.GROUPS,
        typed=typed,
        asked=asked,
        digest=digest_of_message(asked.specification),
        document=asked.specification.model_dump_json(indent=2),
    )


async def _keep(context: Context, session: Session, name: str, file: UploadFile | str | None) -> None:
    if not isinstance(file, UploadFile) or not file.size:
        raise InvalidRequest("choose the file first")
    with context.blobs.create() as blob:
        while chunk := await file.read(_CHUNK_BYTES):
            await in_upload_thread(blob.write, chunk)
        await in_upload_thread(federations.keep_initial, context, session.caller, name, blob)


def _file_form(
    request: Request, context: Context, session: Session, name: str, error: CoordinatorError | None = None
) -> Response:
    with context.database.read() as tx:
        seen = overview_of(tx, session, name)
    return page(
        request,
        "initial_parameters.html",
        error.problem.status if error else 200,
        seen=seen,
        is_draft=seen.federation.status is FederationStatus.DRAFT and not seen.versions,
        fault=error.detail if error else None,
        current="overview",
    )
