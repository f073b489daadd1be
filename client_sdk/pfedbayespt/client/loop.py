"""What a site does, over and over: ask the coordinator, do it, answer.

    an update in the outbox   submit it, byte for byte as it was written
    train                     download the base, verify it, train, keep the update on the disk, submit it
    evaluate                  download the candidate, verify it, report figures of the held-out images
    wait                      ask again as soon as the coordinator said
    finished                  end

Rules:
1. Before anything is done, the assignment must speak of the federation this site agreed to (promise P8).
2. Nothing waits for ever: a coordinator that cannot be reached for `patience_seconds` ends the loop with its error.
3. The end of an epoch asks the coordinator too: a sign of life, and the way to learn that the work is in vain. That
   its round is over does not make it so where `late_policy` lets late updates count.
4. A request to stop takes effect at the next epoch or wait; a site that comes back in time goes on from there
   (`checkpoints.py`).
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from pfedbayespt.client import events
from pfedbayespt.client.agreement import check_assignment, check_parameters, parameters_manifest
from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.client.checkpoints import Checkpoints
from pfedbayespt.client.coordinator import CoordinatorClient
from pfedbayespt.client.errors import (
    DigestMismatch,
    EvaluationConflict,
    NotFound,
    PFedBayesPTError,
    ProblemError,
    TransitionNotAllowed,
    TransportError,
)
from pfedbayespt.client.outbox import Outbox
from pfedbayespt.client.personal import PersonalStore
from pfedbayespt.client.state import Agreement, StateDirectory
from pfedbayespt.client.submission import submit_pending
from pfedbayespt.client.transport import Timeouts
from pfedbayespt.client.versions import VersionCache
from pfedbayespt.client.work import LocalModel, LocalUpdate
from pfedbayespt.protocol import (
    Assignment,
    Round,
    RoundStatus,
    RoundTask,
    SiteAction,
    UpdateManifest,
    digest_of_bytes,
    tensors,
)

MAX_WAIT_SECONDS = 300.0
_FIRST_RETRY_SECONDS = 1.0
_SIGN_OF_LIFE = Timeouts(connect_seconds=2.0, write_seconds=2.0, read_seconds=5.0, total_seconds=5.0)
_PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504, 507})


class _StopRequestedError(PFedBayesPTError):
    """Somebody asked the site to stop while it trained."""


class _RoundEndedError(PFedBayesPTError):
    """The round ended while the site trained, and its update would not count in another."""


@dataclass
class SiteLoop:
    """One site at work.

    Attributes:
        state: the site's files.
        client: the coordinator, with the site's identity.
        identity: the site's identity, which signs its updates.
        model: what computes.
        observer: told what happens.
        stop: set by anyone who wants the loop to end.
        patience_seconds: how long the coordinator may be out of reach.
        clock: monotonic seconds.
    """

    state: StateDirectory
    client: CoordinatorClient
    identity: SiteIdentity
    model: LocalModel
    agreement: Agreement
    observer: events.Observer = events.unobserved
    stop: threading.Event = field(default_factory=threading.Event)
    patience_seconds: float = 600.0
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._enrolment = self.state.enrolment
        self._outbox = Outbox(self.state.path)
        self._checkpoints = Checkpoints(self.state.path)
        self._personal = PersonalStore(self.state.path / "personal")
        self._versions = VersionCache(
            self.state.path / "versions",
            self.client,
            self._enrolment.federation,
            self.agreement.specification,
            self._enrolment.coordinator,
        )
        self._failing_since: float | None = None

    def run(self) -> None:
        """Work until the federation is complete or somebody asks to stop.

        Raises:
            ProblemError: the coordinator refuses this site, for instance because it was revoked.
            TransportError: the coordinator has been out of reach for `patience_seconds`.
            SpecificationChangedError, IntegrityError: what came is not what was agreed on or announced.
        """
        wait: float | None = 0.0
        while wait is not None and not self.stop.wait(wait):
            wait = self._step_patiently()
        self.observer(events.SiteFinished(stopped=wait is not None))

    def _step_patiently(self) -> float | None:
        """Take one step; return how long to wait before the next, or None if there is none."""
        try:
            wait = self._step()
        except _StopRequestedError:
            return 0.0
        except (TransportError, ProblemError) as error:
            return self._wait_after(error)
        self._failing_since = None
        return wait

    def _step(self) -> float | None:
        is_free = submit_pending(self.client, self.identity, self.state, self._outbox, self.observer)
        assignment = self._ask(self.client)
        wait = min(max(assignment.retry_after_seconds, 0.01), MAX_WAIT_SECONDS)
        if assignment.action is SiteAction.FINISHED:
            return None
        if self._act(assignment, is_free=is_free):
            return 0.0
        self.observer(events.Waiting(wait))
        return wait

    def _act(self, assignment: Assignment, *, is_free: bool) -> bool:
        """Do what is asked; False if there is nothing to do now. Only a site with an empty outbox may train."""
        if assignment.action is SiteAction.TRAIN and is_free and not self._was_refused(assignment):
            self._take_part(assignment)
            return True
        return assignment.action is SiteAction.EVALUATE and self._evaluate(assignment)

    def _ask(self, client: CoordinatorClient) -> Assignment:
        assignment = client.sites.assignment()
        enrolment, agreed = self._enrolment, self.agreement.specification_digest
        check_assignment(assignment, enrolment.federation, agreed, enrolment.coordinator)
        return assignment

    def _was_refused(self, assignment: Assignment) -> bool:
        """Whether the round refused this site's update: the same images would give the same update again."""
        refused = self.state.progress.refused_round_id
        return assignment.round is not None and assignment.round.round_id == refused

    def _take_part(self, assignment: Assignment) -> None:
        asked, (_, base) = _round_of(assignment), self._fetch(assignment)
        epochs = self.agreement.specification.training.local_epochs if asked.task is RoundTask.TRAINING else 1
        self.observer(events.RoundStarted(asked.round_number, asked.task, epochs))
        try:
            update = self._work(asked, base, assignment.retry_after_seconds)
        except _RoundEndedError:
            self._checkpoints.discard()
            self.observer(events.RoundLeft(asked.round_number))
            return
        content = tensors.encode(update.delta, _manifest(asked, base, update))
        self._outbox.put(content, update.personal)
        self._checkpoints.discard()
        submit_pending(self.client, self.identity, self.state, self._outbox, self.observer)

    def _work(self, asked: Round, base: bytes, ask_every_seconds: float) -> LocalUpdate:
        if asked.task is RoundTask.STATISTICS:
            return self.model.gather_statistics(base)
        pulse = _Pulse(self.clock, ask_every_seconds)
        on_epoch = partial(self._after_epoch, asked, pulse)
        checkpoint = self._checkpoints.of_round(asked.round_id, digest_of_bytes(base))
        personal = self._personal_of(parameters_manifest(base).version_number)
        return self.model.train(base, personal, asked.round_number, on_epoch, checkpoint)

    def _personal_of(self, number: int) -> bytes | None:
        """What rounds train further; a head that was tuned apart from them stays apart."""
        is_trained = self.agreement.specification.head.personal_residual
        return self._personal.of_version(number) if is_trained else None

    def _after_epoch(
        self, asked: Round, pulse: "_Pulse", epoch: int, num_epochs: int, metrics: Mapping[str, float]
    ) -> None:
        self.observer(events.EpochFinished(asked.round_number, epoch, num_epochs, metrics))
        if self.stop.is_set():
            raise _StopRequestedError
        if not pulse.is_due():
            return
        try:
            assignment = self._ask(self.client.with_timeouts(_SIGN_OF_LIFE))
        except (TransportError, ProblemError):
            return  # the update is worth finishing; whoever submits it will learn what is wrong
        if _is_in_vain(asked, assignment):
            raise _RoundEndedError

    def _evaluate(self, assignment: Assignment) -> bool:
        """Evaluate the candidate and report; False if the coordinator has no use for it any more."""
        number, parameters = self._fetch(assignment)
        evaluation = self.model.evaluate(parameters, self._personal_of(number))
        try:
            self.client.model_versions.report_evaluation(
                assignment.federation, number, self._enrolment.site_id, evaluation
            )
        except (EvaluationConflict, TransitionNotAllowed, NotFound) as error:
            self.observer(events.EvaluationNotTaken(number, str(error)))
            return False
        self.observer(events.VersionEvaluated(number, evaluation.num_examples, evaluation.metrics))
        return True

    def _fetch(self, assignment: Assignment) -> tuple[int, bytes]:
        number, digest = assignment.model_version, assignment.model_digest
        if number is None or digest is None:
            raise TransportError(
                f"the coordinator asks to {assignment.action} without naming a model version"
            )
        content = self._versions.fetch(number, digest)
        check_parameters(content, self.agreement.specification, assignment.federation, number)
        return number, content

    def _wait_after(self, error: TransportError | ProblemError) -> float:
        """Return how long to wait before trying again, twice as long as it has failed already."""
        if not _may_pass(error):
            raise error
        now = self.clock()
        if self._failing_since is None:
            self._failing_since = now
        failed_for = now - self._failing_since
        if failed_for > self.patience_seconds:
            raise error
        asked_for = getattr(error, "retry_after_seconds", None) or 0.0
        wait = min(max(asked_for, failed_for, _FIRST_RETRY_SECONDS), MAX_WAIT_SECONDS)
        self.observer(events.CoordinatorUnreachable(str(error), wait))
        return wait


@dataclass
class _Pulse:
    """Says when the next sign of life is due."""

    clock: Callable[[], float]
    every_seconds: float

    def __post_init__(self) -> None:
        self._last = self.clock()

    def is_due(self) -> bool:
        now = self.clock()
        due = now - self._last >= self.every_seconds
        if due:
            self._last = now
        return due


def _may_pass(error: TransportError | ProblemError) -> bool:
    """Whether trying again later can help: an update that arrived torn is whole on the disk."""
    is_torn = isinstance(error, DigestMismatch)
    return is_torn or isinstance(error, TransportError) or error.status in _PASSING_STATUSES


def _is_in_vain(asked: Round, assignment: Assignment) -> bool:
    """Whether no round will count an update for `asked` any more."""
    now, late_policy = assignment.round, assignment.specification.rounds.late_policy
    if assignment.action is SiteAction.FINISHED:
        return True
    if now is not None and now.round_id == asked.round_id:
        return False
    if late_policy == "next_round" and now is not None:
        return now.round_number > asked.round_number + 1 or now.status is not RoundStatus.COLLECTING
    return late_policy == "drop"


def _round_of(assignment: Assignment) -> Round:
    if assignment.round is None:
        raise TransportError("the coordinator asks to train without naming a round")
    return assignment.round


def _manifest(asked: Round, base: bytes, update: LocalUpdate) -> UpdateManifest:
    return UpdateManifest(
        federation=asked.federation,
        round_id=asked.round_id,
        task=asked.task,
        base_digest=digest_of_bytes(base),
        num_examples=update.num_examples,
        metrics=dict(update.metrics),
    )
