"""The HTTP of predictions alone, for whoever has versions but no coordinator: a site that serves its own people.

The same endpoint, limits, problems and logs as the coordinator's; who may call is up to the caller of `create_app`.
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, FastAPI, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from pfedbayespt.protocol import ProblemType
from pfedbayespt.server import logs, openapi, problems
from pfedbayespt.server.auth import EVERYBODY, PREDICTING, Caller
from pfedbayespt.server.errors import Overloaded
from pfedbayespt.server.health import Health
from pfedbayespt.server.limits import BodyLimit, BodyLimits
from pfedbayespt.server.openapi import documented
from pfedbayespt.server.predictions import endpoints
from pfedbayespt.server.predictions.door import Door
from pfedbayespt.server.predictions.endpoints import Predictions
from pfedbayespt.server.predictions.forms import max_body_bytes
from pfedbayespt.server.request_log import RequestLogMiddleware
from pfedbayespt.server.tracing import NOT_BY_FASTAPI
from pfedbayespt.server.versions import ProtocolVersions

Identify = Callable[[str | None], Caller]
"""From the bearer token, if one was sent, to the caller. Raises AuthenticationRequired."""

_BODY_DEADLINE_SECONDS = 300.0


def create_app(predictions: Predictions, identify: Identify, is_ready: Callable[[], bool]) -> FastAPI:
    """Return an application that answers predictions.

    Args:
        predictions: what answers.
        identify: says who calls.
        is_ready: whether a version is loaded.
    """
    logs.configure_unless_done()
    app = FastAPI(
        title="pFedBayesPT predictions",
        version="1",
        separate_input_output_schemas=False,
        telemetry=NOT_BY_FASTAPI,
    )
    app.state.predictions = predictions
    app.dependency_overrides[PREDICTING] = _guard(identify)
    app.include_router(endpoints.router)
    app.include_router(_health(is_ready))
    openapi.show_recorded_examples(app)
    problems.install(app)
    limit = BodyLimit(max_body_bytes(predictions.max_image_bytes), _BODY_DEADLINE_SECONDS)
    app.add_middleware(BodyLimits, render=problems.render_refusal, default=limit, rules=())
    app.add_middleware(Door)
    app.add_middleware(ProtocolVersions)
    app.add_middleware(RequestLogMiddleware)
    return app


def _guard(identify: Identify) -> Callable[..., Caller]:
    bearer = HTTPBearer(auto_error=False, description="The token that this server was started with.")

    def guard(credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> Caller:
        return identify(None if credentials is None else credentials.credentials)

    return guard


def _health(is_ready: Callable[[], bool]) -> APIRouter:
    router = APIRouter(tags=["health"], dependencies=[EVERYBODY])

    @router.get("/livez", **documented("Is the process alive", guarded=False))
    def read_liveness() -> Health:
        """Answer."""
        return Health()

    @router.get("/readyz", **documented("Can it serve", ProblemType.OVERLOADED, guarded=False))
    def read_readiness() -> Health:
        """Answer once a version is loaded; a swap changes nothing."""
        if not is_ready():
            raise Overloaded("no version is loaded yet")
        return Health()

    return router
