"""The worker: does what is due now, and nothing else.

Rules:
1. `tick` reads what is due from the rows and does it; nothing is remembered between ticks, so a crash loses nothing
   and any worker goes on where another stopped.
2. A lease keeps two workers from aggregating the same round (`rounds.leases`). Should they do it all the same, the
   compare-and-set lets one of them win, and the files are equal anyway.
3. A round that fails does not keep the others waiting: its error is logged and its deadline ends it.
"""

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from typing import BinaryIO

import structlog

from pfedbayespt.protocol import RoundStatus, TensorFileError
from pfedbayespt.server.blobs import BlobError
from pfedbayespt.server.context import Context
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import LostRace
from pfedbayespt.server.failpoints import failpoint
from pfedbayespt.server.federations import repository as federations
from pfedbayespt.server.model_versions import manifests
from pfedbayespt.server.rounds import leases, progress, schedule
from pfedbayespt.server.rounds import repository as rounds
from pfedbayespt.server.rounds.models import RoundRecord
from pfedbayespt.server.rounds.progress import Aggregate, AggregationPlan
from pfedbayespt.server.tracing import Note
from pfedbayespt.server.worker.aggregation import AggregationError, ServerStep, WeightedUpdate, aggregate
from pfedbayespt.server.worker.optimisers import optimiser_of
from pfedbayespt.server.worker.sweeping import sweep
from pfedbayespt.server.worker.tenure import Tenure

ACTOR = "worker"
_log = structlog.get_logger(__name__)


def tick(context: Context) -> bool:
    """Do all that is due; return whether anything was, so that more may be due now."""
    with context.database.read() as tx:
        federation_ids = rounds.idle_federation_ids(tx)
    started = [_contained(_start_round, context, federation_id) for federation_id in federation_ids]
    with context.database.read() as tx:
        round_ids = rounds.all_live_ids(tx)
    moved = [_contained(_move_on, context, round_id) for round_id in round_ids]
    return any(started) or any(moved)


class Worker:
    """The thread that ticks: every `interval_seconds`, and at once when the context's `work` event is set.

    It sweeps at its start, and every `sweep_interval_seconds` after that.
    """

    def __init__(self, context: Context, interval_seconds: float) -> None:
        self._context = context
        self._interval_seconds = interval_seconds
        self._stopping = threading.Event()
        self._sweep_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="pfedbayespt-worker", daemon=True)

    def start(self) -> None:
        """Begin to tick."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the present tick and end the thread."""
        self._stopping.set()
        self._context.work.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._context.work.clear()
            self._sweep_if_due()
            if not self._tick_safely():
                self._context.work.wait(self._interval_seconds)

    def _sweep_if_due(self) -> None:
        every_seconds = self._context.settings.sweep_interval_seconds
        if every_seconds is None or time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + every_seconds
        try:
            sweep(self._context)
        except Exception:  # noqa: BLE001  (as for a tick)
            _log.exception("sweep_failed")

    def _tick_safely(self) -> bool:
        try:
            return tick(self._context)
        except Exception:  # noqa: BLE001  (the thread must outlive a database that is away for a while)
            _log.exception("tick_failed")
            return False


def _contained(step: Callable[[Context, str, Note], bool], context: Context, subject: str) -> bool:
    with context.tracing.root(f"worker {step.__name__.strip('_')}") as note:
        try:
            moved = step(context, subject, note)
        except LostRace:
            moved = True
        except Exception as error:  # noqa: BLE001  (rule 3)
            _log.exception("step_failed", step=step.__name__, subject=subject)
            note({"error.type": type(error).__qualname__})
            moved = False
        note({"pfedbayespt.moved": moved})
        return moved


def _start_round(context: Context, federation_id: str, note: Note) -> bool:
    note({"pfedbayespt.federation_id": federation_id})
    with context.database.write(ACTOR) as tx:
        started = schedule.start_if_due(tx, federations.lock(tx, federation_id))
    if started:
        failpoint("round.after_commit")
    return started


def _move_on(context: Context, round_id: str, note: Note) -> bool:
    note({"pfedbayespt.round_id": round_id})
    with context.database.write(ACTOR) as tx:
        round_ = _locked(tx, round_id)
        note({"pfedbayespt.federation_id": round_.federation_id, "pfedbayespt.round_status": round_.status})
        if round_.status == RoundStatus.COLLECTING:
            deadline = timedelta(seconds=context.settings.aggregation_deadline_seconds)
            return progress.close_if_due(tx, round_, deadline)
        if round_.status == RoundStatus.EVALUATING:
            return progress.conclude_if_due(tx, round_)
        if not round_.status.is_live or progress.abandon_if_late(tx, round_):
            return True
        duration = timedelta(seconds=context.settings.aggregation_lease_seconds)
        has_begun_before = round_.lease_holder is not None
        if not leases.hold(tx, round_id, context.worker_id, duration):
            return False
        plan = progress.plan(tx, round_)
    context.counters.aggregations_repeated.inc(has_begun_before)
    tenure = Tenure(context, round_id, ACTOR)
    with tenure.unless_it_fails():
        _aggregate(context, plan, tenure)
    return True


def _aggregate(context: Context, plan: AggregationPlan, tenure: Tenure) -> None:
    """Compute the plan's file outside of any transaction, keep it, and record the outcome."""
    failpoint("aggregate.after_plan")
    damaged = [part.digest for part in plan.inputs if not _is_sound(context, part.digest, tenure)]
    if damaged:
        with context.database.write(ACTOR) as tx:
            progress.drop_damaged(tx, _locked(tx, plan.round_id), plan, damaged)
        return
    try:
        result = _write_aggregate(context, plan, tenure.keep)
    except (AggregationError, TensorFileError) as error:
        with context.database.write(ACTOR) as tx:
            progress.give_up(tx, _locked(tx, plan.round_id), plan, str(error))
        return
    failpoint("aggregate.after_put")
    with context.database.write(ACTOR) as tx:
        progress.complete(tx, _locked(tx, plan.round_id), plan, result)
        manifests.sign_result(tx, plan.round_id, context.signer)
    failpoint("publish.after_commit")


def _write_aggregate(
    context: Context, plan: AggregationPlan, on_progress: Callable[[], None] = lambda: None
) -> Aggregate:
    def open_update(digest: str) -> BinaryIO:
        on_progress()
        return context.blobs.open(digest)

    with ExitStack() as files, context.blobs.create() as output:
        base = files.enter_context(context.blobs.open(plan.base_digest, verify=True))
        updates = [
            WeightedUpdate(part.digest, partial(open_update, part.digest), part.weight)
            for part in plan.inputs
        ]
        step = _server_step(context, plan, files)
        with context.tracing.span("aggregate", {"pfedbayespt.updates": len(updates)}):
            aggregate(base, updates, plan.manifest, output, step=step)
        if step is not None:
            context.blobs.put(step.output)
        with context.counters.storage.time():
            context.blobs.put(output)
        return Aggregate(output.digest, output.size_bytes, step.output.digest if step else None)


def _server_step(context: Context, plan: AggregationPlan, files: ExitStack) -> ServerStep | None:
    optimiser = optimiser_of(plan.rule)
    if optimiser is None:
        return None
    previous, digest = None, plan.previous_state_digest
    if digest is not None:
        previous = files.enter_context(context.blobs.open(digest, verify=True))
    output = files.enter_context(context.blobs.create())
    return ServerStep(optimiser, previous, plan.state_manifest, output)


def _is_sound(context: Context, digest: str, tenure: Tenure) -> bool:
    tenure.keep()
    try:
        with context.blobs.open(digest, verify=True):
            return True
    except BlobError as error:
        context.counters.note_storage_failure(error)
        return False


def _locked(tx: Transaction, round_id: str) -> RoundRecord:
    """Return the round after locking its federation, so that it is read as nobody else can change it."""
    federations.lock_of_round(tx, round_id)
    round_ = rounds.by_id(tx, round_id)
    if round_ is None:
        raise LookupError(f"round {round_id} is gone; rows are never deleted")
    return round_
