"""Inference as a Ray Serve deployment: as many replicas as asked for, on one machine or on many.

    serve run pfedbayespt.server.ray_serve:inference num_replicas=2 num_cpus=2

Rules:
1. A replica is the inference server itself, `create_app` with the role `inference` and nothing else: the same
   endpoints, limits, refusals and answers, whichever replica is asked.
2. Each replica reads its settings, `PFEDBAYESPT_...`, from the environment of its Ray node, so that no secret goes
   through Ray. All share one PostgreSQL, one blob store and one signing key; on SQLite there is one replica.
3. A replica decides by itself what is too much (`predictions.admission`). Serve hands it as much as it can decide
   on, so that callers are refused in time and do not wait in Serve's queues, which know no deadline.
"""

from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from pfedbayespt.protocol import Message
from pfedbayespt.server.app import create_app
from pfedbayespt.server.settings import ServerRole, Settings

if TYPE_CHECKING:
    from ray.serve import Application

_TO_BE_REFUSED = 64  # on top of what a replica computes and lets wait: so many it can refuse at once


class Replicas(Message):
    """How many replicas there are, and what each takes of its node."""

    num_replicas: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0


def replica() -> FastAPI:
    """Return the application of one replica, from its environment.

    Raises:
        pydantic.ValidationError: a setting is missing or not allowed.
    """
    return create_app(_settings())


def inference(arguments: dict[str, Any]) -> "Application":
    """Return the deployment, for `serve run` and `serve.run`; `arguments` are the fields of `Replicas`.

    Raises:
        pydantic.ValidationError: an argument is unknown, or a setting is missing here.
    """
    from ray import serve

    asked, settings = Replicas.model_validate(arguments, strict=False), _settings()
    deployment: Any = serve.deployment(  # its own annotations know of classes alone
        serve.ingress(replica)(),
        name="inference",
        num_replicas=asked.num_replicas,
        ray_actor_options={"num_cpus": asked.num_cpus, "num_gpus": asked.num_gpus},
        max_ongoing_requests=settings.max_running_predictions
        + settings.max_waiting_predictions
        + _TO_BE_REFUSED,
        graceful_shutdown_timeout_s=settings.prediction_compute_seconds,
    )
    application: Application = deployment.bind()
    return application


def _settings() -> Settings:
    return Settings(roles=frozenset({ServerRole.INFERENCE}))
