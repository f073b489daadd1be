"""`/metrics` for Prometheus: a few figures with bounded labels, counted in this process or read from the database.

No label holds what a caller sends: routes are named by their templates, states and verdicts by the wire contract's
words, federations by their names, which an admin makes.

    pfedbayespt_request_seconds{route, method, status}     a histogram; of `PUT .../updates/...`: until acknowledged
    pfedbayespt_rounds{federation, state}                  rounds in each state
    pfedbayespt_round_state_seconds{federation, state}     for how long the live round has been in its state
    pfedbayespt_updates{federation, verdict}               updates by what became of them
    pfedbayespt_audit_head_age_seconds{federation}         since the latest event
    pfedbayespt_model_age_seconds{federation}              since the serving version was made
    pfedbayespt_acknowledgement_seconds                    a histogram: from an update's headers to its receipt
    pfedbayespt_storage_seconds                            a histogram: until a tensor file is durable
    pfedbayespt_storage_failures_total{kind}               files missing or damaged, store unavailable
    pfedbayespt_database_busy_total                        requests sent away because the database did not answer
    pfedbayespt_aggregations_repeated_total                aggregations begun again: recovery
"""

from collections.abc import Iterable
from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from sqlalchemy import func, select
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from pfedbayespt.protocol import ModelVersionStatus
from pfedbayespt.server.answers import Answer
from pfedbayespt.server.auth import Admin
from pfedbayespt.server.context import Context
from pfedbayespt.server.counters import BUCKETS
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.events.models import EventRecord
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.rounds.models import RoundRecord
from pfedbayespt.server.trials import metrics as trials
from pfedbayespt.server.updates.models import UpdateRecord

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_CHANGES: Final = {"round.started", "round.closed", "round.recomposed", "round.aggregated"}
router = APIRouter(include_in_schema=False)


class Metrics:
    """What one process counts; `app.state.metrics` holds it."""

    def __init__(self, context: Context) -> None:
        self.counted = context.counters.registry
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "pfedbayespt_request_seconds",
            "Time until a request was answered, by the template of its path",
            ("route", "method", "status"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.registry.register(_Recorded(context))


class RequestTimes:
    """ASGI middleware that times every request."""

    def __init__(self, app: ASGIApp, requests: Histogram) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, timed until the last byte of its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = Answer(send)
        try:
            await self._app(scope, receive, answer.send)
        finally:
            route, method = template_of(scope), scope["method"]
            if not route.endswith("/stream"):  # open for as long as somebody looks
                self._requests.labels(route, method, str(answer.status_code or 500)).observe(answer.seconds)


def template_of(scope: Scope) -> str:
    """Return the path's template: whatever no route took is one label, so that callers cannot make more."""
    return str(getattr(scope.get("route"), "path", "unknown"))


@router.get("/metrics")
async def show_metrics(request: Request, _: Admin) -> Response:
    """Tell Prometheus how things stand; it sends the admin token as its bearer token."""
    metrics: Metrics = request.app.state.metrics
    recorded = await run_in_threadpool(generate_latest, metrics.registry)
    return Response(recorded + generate_latest(metrics.counted), media_type=CONTENT_TYPE)


class _Recorded:
    """Figures that the database has, read when they are asked for: the same from every process."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def collect(self) -> Iterable[GaugeMetricFamily]:
        with self._context.database.read() as tx:
            return [
                _rounds(tx),
                _round_state_seconds(tx),
                _updates(tx),
                _audit_head_age(tx),
                _model_age(tx),
                *trials.families(tx),
            ]

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing: registering must not read the database, which is not there yet."""
        return ()


def _rounds(tx: Transaction) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily("pfedbayespt_rounds", "Rounds in each state", labels=("federation", "state"))
    query = (
        select(FederationRecord.name, RoundRecord.status, func.count())
        .join(RoundRecord, RoundRecord.federation_id == FederationRecord.id)
        .group_by(FederationRecord.name, RoundRecord.status)
    )
    for federation, state, count in tx.session.execute(query):
        gauge.add_metric((federation, state.value), count)
    return gauge


def _round_state_seconds(tx: Transaction) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(
        "pfedbayespt_round_state_seconds",
        "For how long the live round has been in its state",
        labels=("federation", "state"),
    )
    query = (
        select(FederationRecord.name, RoundRecord.status, func.max(EventRecord.occurred_at))
        .join(RoundRecord, RoundRecord.federation_id == FederationRecord.id)
        .join(EventRecord, EventRecord.subject == RoundRecord.id)
        .where(RoundRecord.finished_at.is_(None), EventRecord.action.in_(_CHANGES))
        .group_by(FederationRecord.name, RoundRecord.status)
    )
    for federation, state, since in tx.session.execute(query):
        gauge.add_metric((federation, state.value), (tx.now - since).total_seconds())
    return gauge


def _updates(tx: Transaction) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(
        "pfedbayespt_updates", "Updates by what became of them", labels=("federation", "verdict")
    )
    query = (
        select(FederationRecord.name, UpdateRecord.status, func.count())
        .join(RoundRecord, RoundRecord.federation_id == FederationRecord.id)
        .join(UpdateRecord, UpdateRecord.round_id == RoundRecord.id)
        .group_by(FederationRecord.name, UpdateRecord.status)
    )
    for federation, verdict, count in tx.session.execute(query):
        gauge.add_metric((federation, verdict.value), count)
    return gauge


def _audit_head_age(tx: Transaction) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(
        "pfedbayespt_audit_head_age_seconds", "Since the latest event", labels=("federation",)
    )
    query = (
        select(FederationRecord.name, func.max(EventRecord.occurred_at))
        .join(EventRecord, EventRecord.federation_id == FederationRecord.id)
        .group_by(FederationRecord.name)
    )
    for federation, latest in tx.session.execute(query):
        gauge.add_metric((federation,), (tx.now - latest).total_seconds())
    return gauge


def _model_age(tx: Transaction) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(
        "pfedbayespt_model_age_seconds", "Since the serving version was made", labels=("federation",)
    )
    query = (
        select(FederationRecord.name, ModelVersionRecord.created_at)
        .join(ModelVersionRecord, ModelVersionRecord.federation_id == FederationRecord.id)
        .where(ModelVersionRecord.status == ModelVersionStatus.SERVING)
    )
    for federation, created_at in tx.session.execute(query):
        gauge.add_metric((federation,), (tx.now - created_at).total_seconds())
    return gauge
