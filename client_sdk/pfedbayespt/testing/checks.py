"""What a fake coordinator checks before it takes anything in, with the real one's bounds and answers."""

from typing import Final

import numpy as np

from pfedbayespt.protocol import (
    FederationSpecification,
    ProblemType,
    RoundStatus,
    RoundTask,
    SignatureError,
    SignedMessage,
    UpdateManifest,
    WeightedMean,
)
from pfedbayespt.testing.records import Accepted, Arrays, LiveRound, Refusal

_LARGEST: Final = {RoundTask.TRAINING: 1e6, RoundTask.STATISTICS: 1e9}


def submitted_before(round_: LiveRound, site_id: str, digest: str) -> Accepted | None:
    """Return the update that this one repeats, None if the site may submit it now.

    Raises:
        Refusal: it may not.
    """
    there = round_.updates.get(site_id)
    if there is not None and there.receipt.digest != digest:
        raise Refusal(ProblemType.UPDATE_CONFLICT, f"the site has submitted {there.receipt.digest}")
    if there is None and site_id not in round_.cohort:
        raise Refusal(ProblemType.NOT_IN_COHORT, f"the site is not asked in round {round_.round_id}")
    if there is None and round_.status is not RoundStatus.COLLECTING:
        raise Refusal(ProblemType.ROUND_CLOSED, f"round {round_.round_id} is {round_.status}")
    return there


def check_supported(specification: FederationSpecification) -> None:
    """Return if a fake coordinator runs rounds of this kind.

    Raises:
        ValueError: only the real one does.
    """
    rounds = specification.rounds
    if rounds.aggregation != WeightedMean():
        raise ValueError(f"a fake coordinator aggregates by weighted mean only, not {rounds.aggregation!r}")
    if rounds.late_policy != "drop" or rounds.cohort_size is not None or rounds.max_accuracy_drop is not None:
        raise ValueError(
            "a fake coordinator asks every site, drops late updates and promotes without a gate: "
            "leave late_policy, cohort_size and max_accuracy_drop at their defaults"
        )


def check_signed(message: SignedMessage, public_key: str) -> None:
    """Return if the holder of `public_key` has signed this.

    Raises:
        Refusal: not so.
    """
    try:
        message.check_signature(public_key)
    except SignatureError as error:
        raise Refusal(ProblemType.SIGNATURE_REJECTED, str(error)) from error


def check_claims(manifest: UpdateManifest, federation: str, round_: LiveRound) -> None:
    """Return if an update says that it was made for this round.

    Raises:
        ValueError: it says something else.
    """
    stated = (manifest.federation, manifest.round_id, manifest.task, manifest.base_digest)
    wanted = (federation, round_.round_id, round_.task, round_.base.digest)
    if stated != wanted:
        raise ValueError(f"the manifest says {stated}; this round's is {wanted}")


def check_numbers(arrays: Arrays, task: RoundTask) -> None:
    """Return if no number is too large, and those that the task has nothing to do with are zero.

    Raises:
        ValueError: one is, or is not finite.
    """
    for name, array in arrays.items():
        largest = float(np.abs(array).max(initial=0.0))
        if not largest <= (_LARGEST[task] if task.touches(name) else 0.0):
            raise ValueError(f"tensor {name!r} reaches {largest:.6g} in a round of task {task.value!r}")
