"""Putting the server together: `create_app(settings)` and nothing at import time."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Final

from fastapi import APIRouter, FastAPI

from pfedbayespt.server import (
    auth,
    etags,
    failpoints,
    health,
    logs,
    metrics,
    openapi,
    ownership,
    problems,
    schema,
    telemetry,
    ui,
)
from pfedbayespt.server.api_keys import endpoints as api_keys
from pfedbayespt.server.audit import endpoints as audit
from pfedbayespt.server.blobs import BlobStore, OnBroken, leave_it, open_store
from pfedbayespt.server.context import Context
from pfedbayespt.server.database import Clock, Database, database_clock
from pfedbayespt.server.events import endpoints as events
from pfedbayespt.server.federations import endpoints as federations
from pfedbayespt.server.federations import service as federations_service
from pfedbayespt.server.identifiers import new_id
from pfedbayespt.server.limits import BodyLimit, BodyLimits, BodyRule
from pfedbayespt.server.model_versions import endpoints as model_versions
from pfedbayespt.server.model_versions import manifests
from pfedbayespt.server.open_inference import endpoints as open_inference
from pfedbayespt.server.organisations import endpoints as organisations
from pfedbayespt.server.predictions import endpoints as predictions
from pfedbayespt.server.predictions import features
from pfedbayespt.server.predictions.admission import Admission
from pfedbayespt.server.predictions.door import Door
from pfedbayespt.server.predictions.forms import max_body_bytes
from pfedbayespt.server.predictions.predictor import NoPredictor, Predictor
from pfedbayespt.server.predictions.preloading import Preloader
from pfedbayespt.server.predictions.service import RecordedVersions
from pfedbayespt.server.request_log import RequestLogMiddleware
from pfedbayespt.server.rounds import endpoints as rounds
from pfedbayespt.server.settings import ServerRole, Settings
from pfedbayespt.server.sites import endpoints as sites
from pfedbayespt.server.sites import key_endpoints as keys
from pfedbayespt.server.tracing import NOT_BY_FASTAPI, UNTRACED
from pfedbayespt.server.trials import endpoints as trials
from pfedbayespt.server.trials.tallies import Tallies
from pfedbayespt.server.trials.writing import TallyWriter
from pfedbayespt.server.updates import endpoints as updates
from pfedbayespt.server.versions import ProtocolVersions
from pfedbayespt.server.worker.driver import Worker

_DESCRIPTION: Final = """
Train one vision model across organisations that may not pool their images.

Press **Authorize** and paste the admin token or a site's access token. Then, in the order of the sections below:
create a federation, put its initial parameters and activate it; make an enrolment token for each organisation;
watch the rounds; ask for predictions. Errors are problem documents (RFC 9457), and every answer carries an
`X-Request-Id`.
"""
_TENSOR_UPLOADS: Final = re.compile(
    r"/v1/rounds/[^/]+/updates/[^/]+|/v1/federations/[^/]+/initial-parameters"
)
_IMAGE_UPLOADS: Final = re.compile(r"/v1/federations/[^/]+/predictions")
_INFERENCE_UPLOADS: Final = re.compile(r"/v2/models/.+/infer")
_BATCH_UPLOADS: Final = re.compile(r"/v1/federations/[^/]+/predictions/batch")
_COORDINATOR: Final = (
    federations,
    organisations,
    sites,
    keys,
    api_keys,
    rounds,
    updates,
    model_versions,
    trials,
    events,
    audit,
)


def create_app(
    settings: Settings, *, clock: Clock = database_clock, on_broken: OnBroken = leave_it
) -> FastAPI:
    """Return the application; its folders, its database and its worker come to life with its lifespan.

    `clock` is for tests that must move time. `on_broken` is told that an fsync failed; without it the application
    takes nothing more and says so in /livez and /readyz.

    Raises:
        RuntimeError: an operation does not declare who may call it, the role `inference` lacks its packages, or
            `PFEDBAYESPT_FAILPOINTS` is set without the setting that allows it.
        TelemetryError: traces are asked for without their packages, or in a way that is not supported.
        ValueError: the database's or the blob store's URL is of a kind that is not supported.
    """
    failpoints.arm_from_environment(allowed=settings.allow_failpoints)
    logs.configure_unless_done()
    traces = telemetry.open_traces(settings)
    tracing = traces or UNTRACED
    database = Database(settings.effective_database_url, clock, on_broken, tracing)
    blobs = open_store(settings.blobs_url, settings.data_dir, on_broken)
    if traces is not None:
        traces.of_statements(database)
        blobs = traces.of_blobs(blobs)
    worker_id = "embedded" if database.is_sqlite else new_id("wrk")
    context = Context(settings, database, blobs, worker_id, tracing=tracing)
    predictor = _predictor(context)
    if traces is not None:
        predictor = traces.of_predictions(predictor)
    tallies = Tallies()
    app = FastAPI(
        title="pFedBayesPT coordinator",
        version="1",
        description=_DESCRIPTION,
        openapi_tags=openapi.TAGS,
        servers=openapi.SERVERS,
        contact=openapi.CONTACT,
        license_info=openapi.LICENCE,
        lifespan=_lifespan(context, blobs, predictor, tallies),
        openapi_url="/openapi.json" if settings.public_docs else None,
        docs_url=None,  # `ui` has it, from this host's own files
        redoc_url=None,
        separate_input_output_schemas=False,
        telemetry=NOT_BY_FASTAPI,
    )
    app.state.context = context
    app.state.predictions = predictions.Predictions(
        RecordedVersions(database),
        predictor,
        _admission(settings),
        settings.max_image_bytes,
        settings.max_batch_images,
        tallies,
    )
    routers = _routers(settings)
    auth.check_declared(routers)
    for router in routers:
        app.include_router(router)
    openapi.show_recorded_examples(app)
    ui.install(app)
    app.add_middleware(etags.ETags)
    problems.install(app)
    _limit_bodies(app, settings)
    app.add_middleware(Door)
    app.add_middleware(ProtocolVersions)
    app.state.metrics = metrics.Metrics(context)
    app.add_middleware(metrics.RequestTimes, requests=app.state.metrics.requests)
    app.add_middleware(RequestLogMiddleware)
    if traces is not None:
        traces.of_requests(app)
    return app


def _routers(settings: Settings) -> list[APIRouter]:
    routers: list[APIRouter] = []
    if ServerRole.COORDINATOR in settings.roles:
        routers += [resource.router for resource in _COORDINATOR]
    pages = ui.routers(dashboard=bool(routers), api_docs=settings.public_docs)
    answering = [predictions.router, features.router, open_inference.router]
    return [*routers, *answering, health.router, metrics.router, *pages]


def _predictor(context: Context) -> Predictor:
    settings = context.settings
    if ServerRole.INFERENCE not in settings.roles:
        return NoPredictor()
    try:
        from pfedbayespt.server.inference import (  # here, as it imports torch
            make_predictor,
            return_large_blocks,
            share_cores,
        )
    except ModuleNotFoundError as error:
        raise RuntimeError(
            f"the role `inference` needs pip install 'pfedbayespt[inference]': {error}"
        ) from error
    share_cores(settings.max_running_predictions)
    return_large_blocks()
    return make_predictor(
        context.blobs,
        settings.effective_backbone_cache_dir,
        precision=settings.inference_precision,
        compiled=settings.inference_compile,
        micro_batching=settings.micro_batching,
        cache_bytes=settings.feature_cache_bytes,
    )


def _admission(settings: Settings) -> Admission:
    return Admission(
        settings.max_running_predictions,
        settings.max_waiting_predictions,
        max_per_caller=settings.max_predictions_per_caller,
        queue_seconds=settings.prediction_queue_seconds,
        compute_seconds=settings.prediction_compute_seconds,
    )


def _limit_bodies(app: FastAPI, settings: Settings) -> None:
    def limit(max_bytes: int) -> BodyLimit:
        return BodyLimit(max_bytes, settings.body_deadline_seconds)

    app.add_middleware(
        BodyLimits,
        render=problems.render_refusal,
        default=limit(settings.max_json_bytes),
        rules=(
            BodyRule(_TENSOR_UPLOADS, limit(settings.max_update_bytes)),
            BodyRule(_IMAGE_UPLOADS, limit(max_body_bytes(settings.max_image_bytes))),
            BodyRule(_BATCH_UPLOADS, limit(settings.max_batch_bytes)),
            BodyRule(_INFERENCE_UPLOADS, limit(settings.max_batch_bytes)),
            BodyRule(ui.IMAGE_FORMS, limit(max_body_bytes(settings.max_image_bytes))),
            BodyRule(ui.TENSOR_FORMS, limit(settings.max_update_bytes + ui.FORM_ENVELOPE_BYTES)),
        ),
    )


def _lifespan(
    context: Context, blobs: BlobStore, predictor: Predictor, tallies: Tallies
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            _start(context, blobs, stack)
            _preload(context, predictor, stack)
            _write_tallies(context, tallies, stack)
            yield

    return lifespan


def _sign_what_is_unsigned(context: Context) -> None:
    """Have the coordinator's key, and its word for federations that an older release made without one."""
    signer = context.signer
    if ServerRole.COORDINATOR in context.settings.roles:
        with context.database.write("coordinator") as tx:
            federations_service.sign_unsigned(tx, signer)
            manifests.sign_unsigned(tx, signer)


def _start(context: Context, blobs: BlobStore, stack: AsyncExitStack) -> None:
    """Bring the process up, and leave on `stack` how to take it down: start-up is recovery."""
    settings, database = context.settings, context.database
    stack.callback(context.tracing.close)  # the last to go, so that it sees the others' last spans
    if database.is_sqlite:
        stack.enter_context(ownership.sole_owner(settings.data_dir))
        blobs.discard_leftovers()
    stack.callback(database.close)
    schema.prepare(database)
    _sign_what_is_unsigned(context)
    if ServerRole.COORDINATOR in settings.roles and settings.worker_interval_seconds is not None:
        worker = Worker(context, settings.worker_interval_seconds)
        worker.start()
        stack.callback(worker.stop)


def _preload(context: Context, predictor: Predictor, stack: AsyncExitStack) -> None:
    if ServerRole.INFERENCE not in context.settings.roles:
        context.is_warm.set()
        return
    preloader = Preloader(context, predictor, context.settings.preload_interval_seconds)
    preloader.start()
    stack.callback(preloader.stop)


def _write_tallies(context: Context, tallies: Tallies, stack: AsyncExitStack) -> None:
    if ServerRole.INFERENCE in context.settings.roles:
        writer = TallyWriter(context.database, tallies, context.settings.preload_interval_seconds)
        writer.start()
        stack.callback(writer.stop)
