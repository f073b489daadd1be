"""How a round goes on by itself; every function here is one step in one transaction with the federation locked.

    collecting    all asked sites in, or enough, or deadline with quorum -> aggregating
                  deadline without quorum -> abandoned
    aggregating   the plan, computed outside of any transaction -> evaluating with a candidate
                  deadline -> abandoned
    evaluating    all asked sites in, nobody asked, or deadline -> the gate -> published | held

A crash between two steps loses nothing: the next step starts from the rows. The inputs are frozen with the step to
aggregating, and a plan carries the round's epoch, so a plan that was made before the inputs changed is refused.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from pfedbayespt.protocol import (
    AggregationInput,
    AggregationSpecification,
    OptimiserStateManifest,
    ParametersManifest,
    RoundStatus,
    RoundTask,
    WeightedMean,
)
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import LostRace, TransitionNotAllowed
from pfedbayespt.server.failpoints import failpoint
from pfedbayespt.server.model_versions import repository as versions
from pfedbayespt.server.model_versions import service as version_service
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.rounds import lifecycle, repository, service
from pfedbayespt.server.rounds.gate import reason_to_hold
from pfedbayespt.server.rounds.lateness import discount
from pfedbayespt.server.rounds.models import RoundInput, RoundRecord
from pfedbayespt.server.rounds.weights import update_weights
from pfedbayespt.server.updates import lifecycle as updates

_MAX_REASON_CHARACTERS = 200


@dataclass(frozen=True)
class AggregationPlan:
    """All that determines a version's bytes, and the epoch at which it was read.

    `previous_state_digest` is of the optimiser's state that belongs to the base version; None: there is none.
    """

    round_id: str
    epoch: int
    base_digest: str
    previous_state_digest: str | None
    rule: AggregationSpecification
    inputs: tuple[AggregationInput, ...]
    manifest: ParametersManifest
    state_manifest: OptimiserStateManifest


@dataclass(frozen=True)
class Aggregate:
    """The files that a plan leads to, kept in the blob store; no state: the base version's is carried on."""

    digest: str
    size_bytes: int
    state_digest: str | None


def close_if_due(tx: Transaction, round_: RoundRecord, aggregation_deadline: timedelta) -> bool:
    """End collecting, if it is time; return whether it was."""
    num_accepted = repository.count_accepted(tx, round_.id)
    is_late = lifecycle.is_late(round_, tx.now)
    is_complete = num_accepted >= round_.target_updates or not repository.awaits_updates(tx, round_.id)
    if num_accepted >= round_.quorum and (is_late or is_complete):
        close(tx, round_, aggregation_deadline)
    elif is_late:
        reason = f"quorum missed: {num_accepted} of {round_.quorum} updates before the deadline"
        service.abandon(tx, round_, reason)
    return round_.status != RoundStatus.COLLECTING


def close(tx: Transaction, round_: RoundRecord, aggregation_deadline: timedelta) -> None:
    """End collecting now and freeze the inputs.

    Raises:
        TransitionNotAllowed: the round does not collect, or has no quorum.
    """
    num_accepted = repository.count_accepted(tx, round_.id)
    if round_.status == RoundStatus.COLLECTING and num_accepted < round_.quorum:
        raise TransitionNotAllowed(
            f"round {round_.id} has {num_accepted} accepted updates; its quorum is {round_.quorum}"
        )
    lifecycle.close(tx, round_, aggregation_deadline)
    failpoint("close.after_claim")
    _freeze_inputs(tx, round_)
    failpoint("close.before_commit")


def plan(tx: Transaction, round_: RoundRecord) -> AggregationPlan:
    """Return what is to be aggregated: the frozen inputs and what the new file says about itself."""
    base, federation = round_.base_version, round_.federation
    inputs = tuple(map(version_service.describe_input, round_.inputs))
    facts = {
        "federation": federation.name,
        "specification_digest": federation.specification_digest,
        "version_number": versions.next_number(tx, federation.id),
        "inputs_digest": version_service.inputs_digest(inputs, base.optimiser_state_digest),
    }
    return AggregationPlan(
        round_id=round_.id,
        epoch=round_.epoch,
        base_digest=base.digest,
        previous_state_digest=base.optimiser_state_digest,
        rule=federation.policy.aggregation if round_.task == RoundTask.TRAINING else WeightedMean(),
        inputs=inputs,
        manifest=ParametersManifest.model_validate(facts | {"parent_digest": base.digest}),
        state_manifest=OptimiserStateManifest.model_validate(facts),
    )


def complete(tx: Transaction, round_: RoundRecord, done: AggregationPlan, result: Aggregate) -> None:
    """Turn the aggregate into a candidate and ask for evaluations, or judge it at once if none are asked.

    Raises:
        LostRace: the round has moved since the plan was made.
    """
    _check_fence(round_, done)
    federation = round_.federation
    number = done.manifest.version_number
    version_service.add_candidate(tx, federation, round_, number, _new_file(done, result))
    failpoint("publish.after_candidate")
    for part in round_.inputs:
        updates.aggregate(tx, part.update, federation.id)
    deadline = timedelta(seconds=federation.policy.evaluation_deadline_seconds)
    lifecycle.propose(tx, round_, number, deadline)
    tx.session.expire(round_, ["result"])
    conclude_if_due(tx, round_)
    failpoint("publish.before_commit")


def drop_damaged(
    tx: Transaction, round_: RoundRecord, failed: AggregationPlan, damaged: Collection[str]
) -> None:
    """Discard the inputs whose files are damaged, and go on with the rest if they make a quorum.

    Raises:
        LostRace: the round has moved since the plan was made.
    """
    _check_fence(round_, failed)
    hit = [part.update for part in round_.inputs if part.update.digest in damaged]
    for update in hit:
        updates.discard(
            tx, update, round_.federation_id, "file_damaged: the stored file is missing or damaged"
        )
    num_left = len(round_.inputs) - len(hit)
    if num_left < round_.quorum:
        reason = f"quorum lost: {num_left} of {round_.quorum} updates have intact files"
        service.abandon(tx, round_, reason)
        return
    lifecycle.recompose(tx, round_, len(hit))
    _freeze_inputs(tx, round_)
    failpoint("recompose.before_commit")


def give_up(tx: Transaction, round_: RoundRecord, failed: AggregationPlan, reason: str) -> None:
    """Abandon a round whose inputs can never be aggregated.

    Raises:
        LostRace: the round has moved since the plan was made.
    """
    _check_fence(round_, failed)
    service.abandon(tx, round_, f"aggregation failed: {reason}"[:_MAX_REASON_CHARACTERS])


def abandon_if_late(tx: Transaction, round_: RoundRecord) -> bool:
    """Abandon a round that could not be aggregated in time; return whether it is one."""
    is_late = lifecycle.is_late(round_, tx.now)
    if is_late:
        service.abandon(tx, round_, "aggregation failed until the deadline")
    return is_late


def conclude_if_due(tx: Transaction, round_: RoundRecord) -> bool:
    """Judge the candidate, if all evaluations are in or none are asked or the deadline has passed.

    Returns whether it was judged.
    """
    candidate = _candidate_of(round_)
    asked = is_evaluated(round_) and repository.awaits_evaluations(
        tx, round_.id, candidate.id, of_contributors=asks_contributors(round_)
    )
    if asked and not lifecycle.is_late(round_, tx.now):
        return False
    reason = _reason_to_hold(tx, round_, candidate)
    if reason is None:
        lifecycle.publish(tx, round_, candidate.number)
        version_service.promote(tx, round_.federation, candidate)
    else:
        lifecycle.hold(tx, round_, candidate.number, reason)
        version_service.hold(tx, candidate)
    failpoint("promotion.before_commit")
    return True


def is_evaluated(round_: RoundRecord) -> bool:
    """Whether sites are asked to evaluate the round's candidate: a statistics round has nothing to evaluate yet."""
    return round_.task == RoundTask.TRAINING and round_.federation.policy.evaluate


def asks_contributors(round_: RoundRecord) -> bool:
    """Whether only the sites behind the candidate evaluate it: in asynchronous mode the others are training."""
    return round_.federation.policy.asynchronous is not None


def _candidate_of(round_: RoundRecord) -> ModelVersionRecord:
    if round_.result is None:
        raise LookupError(f"round {round_.id} is evaluating nothing; `propose` comes with a candidate")
    return round_.result


def _freeze_inputs(tx: Transaction, round_: RoundRecord) -> None:
    for stale in round_.inputs:
        tx.session.delete(stale)
    tx.session.flush()
    accepted = repository.accepted_updates(tx, round_.id)
    counts = [update.num_examples or 0 for update in accepted]
    shares = update_weights(counts, _max_weight_ratio(round_))
    tx.session.add_all(
        RoundInput(
            round_id=round_.id,
            position=position,
            update_id=update.id,
            weight=share * discount(round_, update.staleness),
        )
        for position, (update, share) in enumerate(zip(accepted, shares, strict=True))
    )
    tx.session.flush()
    tx.session.expire(round_, ["inputs"])


def _new_file(plan_: AggregationPlan, result: Aggregate) -> version_service.NewFile:
    state = result.state_digest or plan_.previous_state_digest
    return version_service.NewFile(result.digest, result.size_bytes, state)


def _max_weight_ratio(round_: RoundRecord) -> float:
    if round_.task == RoundTask.STATISTICS:
        return math.inf
    return round_.federation.policy.max_weight_ratio


def _check_fence(round_: RoundRecord, plan_: AggregationPlan) -> None:
    if (round_.status, round_.epoch) != (RoundStatus.AGGREGATING, plan_.epoch):
        raise LostRace(f"round {round_.id} is {round_.status} at epoch {round_.epoch}, not {plan_.epoch}")


def _reason_to_hold(tx: Transaction, round_: RoundRecord, candidate: ModelVersionRecord) -> str | None:
    if not is_evaluated(round_):
        return None
    accuracies = [
        {
            record.site_id: record.metrics["accuracy"]
            for record in versions.evaluations(tx, version_id)
            if "accuracy" in record.metrics
        }
        for version_id in (candidate.id, round_.base_version_id)
    ]
    return reason_to_hold(round_.federation.policy, *accuracies)
