"""Which of two versions answers while one is on trial, and how far the two differ.

Rules:
1. Who answers is decided by a hash of the version on trial and a key: the header `X-Sticky-Key` if the request has
   one, else who asks or the image, as the trial's terms say. The same key gets the same version for as long as the
   trial lasts; with a larger share of the same version, those who had it keep it.
2. A request is answered by one version, whole: where the one on trial cannot answer, that is counted, and the one
   that serves answers everything in it.
3. A request that names a version has nothing to do with trials.
4. Comparing begins after the answer, if a turn is free and nobody waits for one; under load it is what is dropped.
   Both versions draw from the same seed, so that they differ by their parameters alone.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog

from pfedbayespt.protocol import Prediction, PredictionRequest
from pfedbayespt.server.errors import (
    CoordinatorError,
    InferenceUnavailable,
    Overloaded,
    QuotaExceeded,
    StorageUnavailable,
)
from pfedbayespt.server.predictions.admission import Admission, Ticket
from pfedbayespt.server.predictions.predictor import Answer, Asker, Predictor, ServableVersion, TrialVersion
from pfedbayespt.server.trials.tallies import Tallies, Tally

Result = TypeVar("Result")
_SCALE: Final = 2**64
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Asked:
    """What a request says that decides who answers it.

    Attributes:
        actor: who asks.
        image: the image, or the first one.
        sticky_key: the header, if it was sent.
    """

    actor: str
    image: bytes
    sticky_key: str | None = None

    def key_for(self, trial: TrialVersion) -> bytes:
        """Return what is hashed."""
        if self.sticky_key is not None:
            return self.sticky_key.encode()
        return self.image if trial.sticky_by == "image" else self.actor.encode()


def is_chosen(trial: TrialVersion, share: float, purpose: str, key: bytes) -> bool:
    """Whether the key is among the `share` of all keys for which the version on trial does that."""
    hashed = hashlib.sha256(f"{purpose}\0{trial.candidate.digest}\0".encode() + key).digest()
    return int.from_bytes(hashed[:8], "big") < share * _SCALE


def answer(
    tallies: Tallies,
    serving: ServableVersion,
    asked: Asked,
    compute: Callable[[ServableVersion], Result],
) -> tuple[Result, ServableVersion]:
    """Return what `compute` makes of the version that is to answer, and that version."""
    trial = serving.trial
    if trial is None or not is_chosen(trial, trial.answer_share, "answer", asked.key_for(trial)):
        return compute(serving), serving
    try:
        result = compute(trial.candidate)
    except Exception as error:
        if not is_its_own(error):
            raise
        _log.warning("trial_failed", number=trial.candidate.number, exc_info=True)
        tallies.note(trial.trial_id, Tally(num_tried=1, num_errors=1))
        return compute(serving), serving
    tallies.note(trial.trial_id, Tally(num_tried=1, num_answered=1))
    return result, trial.candidate


def is_its_own(error: Exception) -> bool:
    """Whether the version that computed is at fault: not the request, and not that too much is asked of the server.

    What nobody thought of counts too, since the version that serves may do without it.
    """
    return not isinstance(error, CoordinatorError) or isinstance(
        error, InferenceUnavailable | StorageUnavailable
    )


class Comparisons:
    """Computes with the other version what one has answered. It belongs to one event loop."""

    def __init__(self, predictor: Predictor, admission: Admission, tallies: Tallies) -> None:
        self._predictor = predictor
        self._admission = admission
        self._tallies = tallies
        self._running: set[asyncio.Task[None]] = set()

    def offer(
        self, serving: ServableVersion, request: PredictionRequest, given: Answer, asker: Asker
    ) -> None:
        """Compare `given`, all of its classes, some time after now, if it is to be compared."""
        trial = serving.trial
        if trial is None or not is_chosen(trial, trial.compare_share, "compare", request.image):
            return
        if not self._admission.has_free_turn:
            self._tallies.note(trial.trial_id, Tally(num_skipped=1))
            return
        task = asyncio.create_task(self._compare(_Pair(serving, trial, request, given, asker)))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _compare(self, pair: "_Pair") -> None:
        trial_id = pair.trial.trial_id
        try:
            with self._admission.admitted("trial"):
                done = await self._admission.run(lambda ticket: self._other(pair, ticket))
            self._tallies.note(trial_id, done.result)
        except (Overloaded, QuotaExceeded):
            self._tallies.note(trial_id, Tally(num_skipped=1))
        except Exception:  # noqa: BLE001  (of the serving version or the image: nothing to compare with)
            _log.warning("comparison_failed", trial_id=trial_id, exc_info=True)

    def _other(self, pair: "_Pair", ticket: Ticket) -> Tally:
        ticket.check_wanted()
        is_canary = pair.given.prediction.model_digest == pair.trial.candidate.digest
        other = pair.serving if is_canary else pair.trial.candidate
        seed = pair.given.prediction.seed
        request = pair.request.model_copy(update={"seed": seed, "model_version": other.number, "top_k": None})
        try:
            found = self._predictor.predict(other, request, pair.asker)
        except Exception as error:
            if is_canary or not is_its_own(error):
                raise
            _log.warning("trial_failed", number=other.number, exc_info=True)
            return Tally(num_tried=1, num_errors=1)
        tried, served = (pair.given, found) if is_canary else (found, pair.given)
        return difference(tried, served, num_tried=0 if is_canary else 1)


@dataclass(frozen=True)
class _Pair:
    serving: ServableVersion
    trial: TrialVersion
    request: PredictionRequest
    given: Answer
    asker: Asker


def difference(tried: Answer, served: Answer, num_tried: int) -> Tally:
    """Return what a comparison of two answers with all classes adds to the sums."""
    return Tally(
        num_tried=num_tried,
        num_compared=1,
        num_flips=int(tried.prediction.label != served.prediction.label),
        sum_distance=total_variation(tried.prediction, served.prediction),
        sum_trial_seconds=sum(tried.seconds.values()),
        sum_serving_seconds=sum(served.seconds.values()),
    )


def total_variation(one: Prediction, other: Prediction) -> float:
    """Return half the sum over the classes of |p - q|."""
    shares = {each.label: each.probability for each in one.probabilities}
    return sum(abs(each.probability - shares.get(each.label, 0.0)) for each in other.probabilities) / 2
