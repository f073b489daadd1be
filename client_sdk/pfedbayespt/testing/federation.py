"""What a fake coordinator knows: one federation, its sites, rounds and versions, in memory.

It follows the real coordinator's rules as far as a site can see them:
1. Rounds run by themselves: the first asks for statistics, `num_rounds` more for training. One begins when
   `min_sites_to_start` sites are there, and asks all of them.
2. A round closes when every site has submitted, or by `close`; the weighted mean of its updates is the next
   version. Sites evaluate it if the specification says so; then it serves.
3. An update is checked before it counts: its site's signature over exactly these bytes for this round, then the
   file. The same bytes again are answered with the same receipt, others are refused.
"""

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from pfedbayespt.protocol import (
    AggregationInput,
    Assignment,
    CoordinatorIdentity,
    Evaluation,
    FederationSpecification,
    FederationStatus,
    FederationTerms,
    KeyPossession,
    ModelVersion,
    ModelVersionStatus,
    ParametersManifest,
    ProblemType,
    Receipt,
    Round,
    RoundStatus,
    RoundTask,
    SignatureError,
    SignedMessage,
    SigningKey,
    Site,
    SiteAction,
    SiteEnrol,
    SiteEnrolment,
    SiteEvaluation,
    SiteKey,
    SiteKeyAdd,
    SiteKeyRetire,
    SiteLeave,
    SiteStatus,
    TensorFileError,
    UpdateManifest,
    UpdateStatement,
    VersionManifest,
    WeightedMean,
    digest_of_bytes,
    digest_of_message,
    tensors,
)

Arrays = Mapping[str, "np.ndarray[Any, Any]"]
_NO_HISTORY: Final = "0" * 64  # a receipt's `audit_head`: there is no chain of events here
_MAX_LIVE_KEYS: Final = 2


class Refusal(Exception):  # noqa: N818 - named for what it is: an answer
    """A request is answered with a problem."""

    def __init__(self, problem: ProblemType, detail: str, **extensions: str) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.extensions = extensions


@dataclass
class Member:
    """A site, its live keys by their ids, and those that are retired."""

    site: Site
    keys: dict[str, SiteKey]
    retired: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Accepted:
    """An update that counts."""

    manifest: UpdateManifest
    arrays: Arrays
    receipt: Receipt


@dataclass
class Version:
    """A model version and its file."""

    number: int
    content: bytes
    manifest: VersionManifest
    status: ModelVersionStatus
    evaluations: dict[str, SiteEvaluation] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The digest of the file."""
        return self.manifest.digest


@dataclass
class LiveRound:
    """A round and the updates that count in it, by site."""

    number: int
    round_id: str
    task: RoundTask
    base: Version
    cohort: tuple[str, ...]
    started_at: datetime
    status: RoundStatus = RoundStatus.COLLECTING
    updates: dict[str, Accepted] = field(default_factory=dict)
    result: Version | None = None


class FakeFederation:
    """One federation, from its initial parameters on. Not safe to use from several threads at once.

    Args:
        specification: what its members agree to; `rounds` must be of the kind that a fake coordinator runs.
        initial: the initial parameters, by name.
        name: the federation's name.

    Raises:
        ValueError: the specification asks for what only the real coordinator does.
    """

    def __init__(self, specification: FederationSpecification, initial: Arrays, name: str = "alpha") -> None:
        _check_supported(specification)
        self.name = name
        self.specification = specification
        self.specification_digest = digest_of_message(specification)
        self.key = SigningKey.generate()
        self.members: dict[str, Member] = {}
        self.rounds: list[LiveRound] = []
        self.quarantined: list[str] = []
        self._tokens: dict[str, str] = {}
        self._schema = tensors.schema_of(initial)
        self.versions = [self._version(0, initial, None, {})]
        self.versions[0].status = ModelVersionStatus.SERVING

    @property
    def identity(self) -> CoordinatorIdentity:
        """The public half of the coordinator's key."""
        return CoordinatorIdentity(key_id=self.key.key_id, public_key=self.key.public_key)

    @property
    def serving(self) -> Version:
        """The version that serves."""
        return next(
            version for version in reversed(self.versions) if version.status is ModelVersionStatus.SERVING
        )

    @property
    def live_round(self) -> LiveRound | None:
        """The round that sites are asked for."""
        return self.rounds[-1] if self.rounds and self.rounds[-1].status.is_live else None

    # Sites

    def invite(self, organisation: str = "clinic") -> str:
        """Return a one-use enrolment token."""
        token = secrets.token_urlsafe(24)
        self._tokens[token] = organisation
        return token

    def enrol(self, request: SiteEnrol) -> SiteEnrolment:
        """Redeem a token."""
        _check_signed(request, request.public_key)
        if request.coordinator_key_id != self.key.key_id:
            raise Refusal(ProblemType.SIGNATURE_REJECTED, "the request is meant for another coordinator")
        token = request.token.get_secret_value()
        if token not in self._tokens:
            raise Refusal(ProblemType.ENROLMENT_TOKEN_REFUSED, "the token is unknown, used or expired")
        if any(member.site.site_name == request.site_name for member in self.members.values()):
            raise Refusal(ProblemType.ALREADY_EXISTS, f"there is a site {request.site_name!r} already")
        now = datetime.now(UTC)
        site = Site(
            site_id=f"sit_{secrets.token_hex(8)}",
            site_name=request.site_name,
            organisation=self._tokens.pop(token),
            federation=self.name,
            status=SiteStatus.ACTIVE,
            enrolled_at=now,
            last_seen_at=None,
        )
        key = SiteKey(key_id=request.key_id, public_key=request.public_key, created_at=now)
        self.members[site.site_id] = Member(site, {key.key_id: key})
        self._start_round_if_due()
        return SiteEnrolment(site=site, key_id=key.key_id, coordinator=self.identity)

    def leave(self, member: Member, request: SiteLeave) -> Site:
        """Let a site go for good."""
        self.check_own_signature(member, request)
        if (request.site_id, request.site_name) != (member.site.site_id, member.site.site_name):
            raise Refusal(ProblemType.INVALID_REQUEST, "another site is to leave than calls")
        member.site = member.site.model_copy(update={"status": SiteStatus.REVOKED})
        return member.site

    def add_key(self, member: Member, request: SiteKeyAdd) -> SiteKey:
        """Add a second key; the same one again changes nothing."""
        self.check_own_signature(member, request)
        new: KeyPossession = request.possession
        _check_signed(new, new.public_key)
        if new.site_id != member.site.site_id:
            raise Refusal(ProblemType.SIGNATURE_REJECTED, f"the new key was signed for {new.site_id}")
        if new.key_id in member.keys:
            return member.keys[new.key_id]
        if new.key_id in member.retired or len(member.keys) >= _MAX_LIVE_KEYS:
            raise Refusal(ProblemType.TRANSITION_NOT_ALLOWED, f"the site has {_MAX_LIVE_KEYS} live keys")
        key = SiteKey(key_id=new.key_id, public_key=new.public_key, created_at=datetime.now(UTC))
        member.keys[key.key_id] = key
        return key

    def retire_key(self, member: Member, key_id: str, request: SiteKeyRetire) -> SiteKey:
        """Make a key worth nothing from here on."""
        if key_id not in member.keys:
            raise Refusal(ProblemType.NOT_FOUND, f"the site has no key {key_id!r}")
        self.check_own_signature(member, request)
        stated = (request.site_id, request.retired_key_id)
        if stated != (member.site.site_id, key_id) or request.key_id == key_id:
            raise Refusal(ProblemType.SIGNATURE_REJECTED, "sign with another live key")
        member.retired.add(key_id)
        return member.keys.pop(key_id)

    def check_own_signature(self, member: Member, message: SignedMessage) -> None:
        """Return if a message is signed with a live key of the site."""
        key = member.keys.get(message.key_id)
        if key is None:
            raise Refusal(ProblemType.SIGNATURE_REJECTED, f"{message.key_id} is no live key of this site")
        _check_signed(message, key.public_key)

    # Rounds

    def assignment(self, member: Member, retry_after_seconds: float) -> Assignment:
        """Return what the site is to do now."""
        action, version = self._task(member.site.site_id)
        has_work = action in {SiteAction.TRAIN, SiteAction.EVALUATE}
        live = self.live_round if has_work else None
        return Assignment(
            action=action,
            federation=self.name,
            federation_status=FederationStatus.ACTIVE,
            specification=self.specification,
            specification_digest=self.specification_digest,
            terms=FederationTerms.signed(
                self.key,
                federation=self.name,
                specification_digest=self.specification_digest,
                backbone_digest=self.specification.backbone.weights_digest,
                issued_at=self.versions[0].manifest.created_at,
            ),
            round=None if live is None else self.describe(live),
            model_version=None if version is None else version.number,
            model_digest=None if version is None else version.digest,
            retry_after_seconds=retry_after_seconds,
        )

    def accept(
        self, member: Member, round_id: str, site_id: str, statement: UpdateStatement, content: bytes
    ) -> tuple[Receipt, bool]:
        """Take an update in; return its receipt, and whether it is a new one."""
        if site_id != member.site.site_id:
            raise Refusal(ProblemType.PERMISSION_DENIED, "a site submits its own updates only")
        round_, digest = self._round(round_id), digest_of_bytes(content)
        there = _submitted(round_, site_id, digest)
        self.check_own_signature(member, statement)
        stated = (statement.federation, statement.site_id, statement.round_id, statement.update_digest)
        if stated != (self.name, site_id, round_id, digest):
            raise Refusal(ProblemType.SIGNATURE_REJECTED, f"the statement is for {stated}")
        if there is not None:
            return there.receipt, False
        manifest, arrays = self._read(round_, content)
        if (statement.base_digest, statement.num_examples) != (manifest.base_digest, manifest.num_examples):
            raise Refusal(ProblemType.SIGNATURE_REJECTED, "the statement and the update's manifest differ")
        receipt = self._receipt(round_id, site_id, content)
        round_.updates[site_id] = Accepted(manifest, arrays, receipt)
        if len(round_.updates) == len(round_.cohort):
            self._aggregate(round_)
        return receipt, True

    def evaluate(self, member: Member, number: int, evaluation: Evaluation) -> SiteEvaluation:
        """Take a site's evaluation in; the same one again changes nothing."""
        version = self.version(number)
        site = member.site
        there = version.evaluations.get(site.site_id)
        if there is not None and there.evaluation != evaluation:
            raise Refusal(ProblemType.EVALUATION_CONFLICT, "the site has reported another evaluation")
        told = there or SiteEvaluation(
            site_id=site.site_id,
            site_name=site.site_name,
            evaluation=evaluation,
            reported_at=datetime.now(UTC),
        )
        version.evaluations[site.site_id] = told
        live = self.live_round
        if live is not None and live.result is version and set(live.cohort) <= set(version.evaluations):
            self._publish(live)
        return told

    def close(self) -> None:
        """Close the live round with the updates that are there; abandon it if they are fewer than the quorum."""
        live = self.live_round
        if live is None:
            return
        if live.status is RoundStatus.EVALUATING:
            self._publish(live)
        elif len(live.updates) >= self.specification.rounds.quorum:
            self._aggregate(live)
        else:
            live.status = RoundStatus.ABANDONED
            self._start_round_if_due()

    def version(self, number: int) -> Version:
        """Return a version."""
        if not 0 <= number < len(self.versions):
            raise Refusal(ProblemType.NOT_FOUND, f"there is no version {number}")
        return self.versions[number]

    def receipt(self, member: Member, update_id: str) -> Receipt:
        """Return the receipt of the site's own update."""
        receipts = (each.updates.get(member.site.site_id) for each in self.rounds)
        for accepted in receipts:
            if accepted is not None and accepted.receipt.update_id == update_id:
                return accepted.receipt
        raise Refusal(ProblemType.NOT_FOUND, f"there is no update {update_id!r}")

    def parameters(self, number: int) -> dict[str, "np.ndarray[Any, Any]"]:
        """Return a version's parameters by name."""
        return tensors.decode(self.version(number).content)[1]

    def describe(self, round_: LiveRound) -> Round:
        """Return the round's message."""
        policy = self.specification.rounds
        return Round(
            round_id=round_.round_id,
            federation=self.name,
            round_number=round_.number,
            task=round_.task,
            status=round_.status,
            base_version=round_.base.number,
            base_digest=round_.base.digest,
            result_version=None if round_.result is None else round_.result.number,
            quorum=policy.quorum,
            cohort=round_.cohort,
            updates_accepted=len(round_.updates),
            updates_quarantined=0,
            started_at=round_.started_at,
            deadline_at=round_.started_at + timedelta(seconds=policy.deadline_seconds),
            finished_at=None,
        )

    def describe_version(self, version: Version) -> ModelVersion:
        """Return the version's message."""
        manifest = version.manifest
        return ModelVersion(
            version_number=version.number,
            federation=self.name,
            status=version.status,
            digest=version.digest,
            size_bytes=manifest.size_bytes,
            parent_version=None if version.number == 0 else version.number - 1,
            round_id=manifest.round_id,
            inputs=manifest.inputs,
            evaluations=tuple(version.evaluations.values()),
            manifest=manifest,
            created_at=manifest.created_at,
        )

    def _task(self, site_id: str) -> tuple[SiteAction, Version | None]:
        live = self.live_round
        if live is None:
            return (SiteAction.FINISHED, self.serving) if self._is_finished() else (SiteAction.WAIT, None)
        if site_id not in live.cohort:
            return SiteAction.WAIT, None
        if live.status is RoundStatus.COLLECTING and site_id not in live.updates:
            return SiteAction.TRAIN, live.base
        is_candidate = live.status is RoundStatus.EVALUATING and live.result is not None
        if is_candidate and live.result is not None and site_id not in live.result.evaluations:
            return SiteAction.EVALUATE, live.result
        return SiteAction.WAIT, None

    def _published(self, task: RoundTask) -> int:
        return sum(each.task is task and each.status is RoundStatus.PUBLISHED for each in self.rounds)

    def _is_finished(self) -> bool:
        wanted = self.specification.rounds.num_rounds
        return wanted is not None and self._published(RoundTask.TRAINING) >= wanted

    def _start_round_if_due(self) -> None:
        active = sorted(
            site_id for site_id, member in self.members.items() if member.site.status is SiteStatus.ACTIVE
        )
        policy = self.specification.rounds
        is_due = self.live_round is None and not self._is_finished() and policy.num_rounds is not None
        if not is_due or len(active) < policy.min_sites_to_start:
            return
        task = RoundTask.TRAINING if self._published(RoundTask.STATISTICS) else RoundTask.STATISTICS
        self.rounds.append(
            LiveRound(
                number=len(self.rounds) + 1,
                round_id=f"rnd_{secrets.token_hex(8)}",
                task=task,
                base=self.serving,
                cohort=tuple(active),
                started_at=datetime.now(UTC),
            )
        )

    def _round(self, round_id: str) -> LiveRound:
        for round_ in self.rounds:
            if round_.round_id == round_id:
                return round_
        raise Refusal(ProblemType.NOT_FOUND, f"there is no round {round_id!r}")

    def _read(self, round_: LiveRound, content: bytes) -> tuple[UpdateManifest, Arrays]:
        try:
            text, arrays = tensors.decode(content, self._schema)
            manifest = UpdateManifest.model_validate_json(text)
            _check_claims(manifest, self.name, round_)
            _check_numbers(arrays, round_.task)
        except (TensorFileError, ValidationError, ValueError) as error:
            self.quarantined.append(digest_of_bytes(content))
            raise Refusal(ProblemType.UPDATE_REJECTED, str(error)) from error
        return manifest, arrays

    def _receipt(self, round_id: str, site_id: str, content: bytes) -> Receipt:
        return Receipt.signed(
            self.key,
            federation=self.name,
            update_id=f"upd_{secrets.token_hex(8)}",
            round_id=round_id,
            site_id=site_id,
            digest=digest_of_bytes(content),
            size_bytes=len(content),
            received_at=datetime.now(UTC),
            audit_head=_NO_HISTORY,
        )

    def _aggregate(self, round_: LiveRound) -> None:
        weights = _weights(round_, self.specification.rounds.max_weight_ratio)
        base = tensors.decode(round_.base.content)[1]
        moved = {
            name: (
                array.astype(np.float64)
                + sum(weight * round_.updates[site].arrays[name] for site, weight in weights.items())
            ).astype(np.float32)
            for name, array in base.items()
        }
        round_.result = self._version(len(self.versions), moved, round_, weights)
        self.versions.append(round_.result)
        if self.specification.rounds.evaluate and round_.task is RoundTask.TRAINING:
            round_.status = RoundStatus.EVALUATING
        else:
            self._publish(round_)

    def _publish(self, round_: LiveRound) -> None:
        self.serving.status = ModelVersionStatus.RETIRED
        if round_.result is not None:
            round_.result.status = ModelVersionStatus.SERVING
        round_.status = RoundStatus.PUBLISHED
        self._start_round_if_due()

    def _version(
        self, number: int, arrays: Arrays, round_: LiveRound | None, weights: Mapping[str, float]
    ) -> Version:
        parent = None if round_ is None else round_.base.digest
        inputs = () if round_ is None else tuple(_inputs(round_, weights))
        recorded = json.dumps([each.model_dump(mode="json") for each in inputs]).encode()
        content = tensors.encode(
            arrays,
            ParametersManifest(
                federation=self.name,
                specification_digest=self.specification_digest,
                version_number=number,
                parent_digest=parent,
                inputs_digest=None if round_ is None else digest_of_bytes(recorded),
            ),
        )
        manifest = VersionManifest.signed(
            self.key,
            federation=self.name,
            version_number=number,
            digest=digest_of_bytes(content),
            size_bytes=len(content),
            specification_digest=self.specification_digest,
            backbone_digest=self.specification.backbone.weights_digest,
            parent_digest=parent,
            round_id=None if round_ is None else round_.round_id,
            task=None if round_ is None else round_.task,
            rule={} if round_ is None else self.specification.rounds.aggregation.model_dump(mode="json"),
            inputs=inputs,
            optimiser_state_digest=None,
            parent_optimiser_state_digest=None,
            code_version="fake",
            created_at=datetime.now(UTC),
        )
        return Version(number, content, manifest, ModelVersionStatus.CANDIDATE)


def _submitted(round_: LiveRound, site_id: str, digest: str) -> Accepted | None:
    """Return the update that this one repeats, None if the site may submit it now."""
    there = round_.updates.get(site_id)
    if there is not None and there.receipt.digest != digest:
        raise Refusal(ProblemType.UPDATE_CONFLICT, f"the site has submitted {there.receipt.digest}")
    if there is None and site_id not in round_.cohort:
        raise Refusal(ProblemType.NOT_IN_COHORT, f"the site is not asked in round {round_.round_id}")
    if there is None and round_.status is not RoundStatus.COLLECTING:
        raise Refusal(ProblemType.ROUND_CLOSED, f"round {round_.round_id} is {round_.status}")
    return there


def _check_supported(specification: FederationSpecification) -> None:
    rounds = specification.rounds
    if rounds.aggregation != WeightedMean():
        raise ValueError(f"a fake coordinator aggregates by weighted mean only, not {rounds.aggregation!r}")
    if rounds.late_policy != "drop" or rounds.cohort_size is not None or rounds.max_accuracy_drop is not None:
        raise ValueError(
            "a fake coordinator asks every site, drops late updates and promotes without a gate: "
            "leave late_policy, cohort_size and max_accuracy_drop at their defaults"
        )


def _check_signed(message: SignedMessage, public_key: str) -> None:
    try:
        message.check_signature(public_key)
    except SignatureError as error:
        raise Refusal(ProblemType.SIGNATURE_REJECTED, str(error)) from error


def _check_claims(manifest: UpdateManifest, federation: str, round_: LiveRound) -> None:
    stated = (manifest.federation, manifest.round_id, manifest.task, manifest.base_digest)
    wanted = (federation, round_.round_id, round_.task, round_.base.digest)
    if stated != wanted:
        raise ValueError(f"the manifest says {stated}; this round's is {wanted}")


def _check_numbers(arrays: Arrays, task: RoundTask) -> None:
    bound = 1e6 if task is RoundTask.TRAINING else 1e9
    for name, array in arrays.items():
        largest = float(np.abs(array).max(initial=0.0))
        if not largest <= (bound if task.touches(name) else 0.0):
            raise ValueError(f"tensor {name!r} reaches {largest:.6g} in a round of task {task.value!r}")


def _weights(round_: LiveRound, max_ratio: float) -> dict[str, float]:
    """Return each site's share: by examples, none more than `max_ratio` times the median in a training round."""
    counts = {site: accepted.manifest.num_examples for site, accepted in round_.updates.items()}
    most = math.inf if round_.task is RoundTask.STATISTICS else max_ratio * median(counts.values())
    kept = {site: min(float(count), most) for site, count in counts.items()}
    total = sum(kept.values())
    return {site: count / total for site, count in kept.items()}


def _inputs(round_: LiveRound, weights: Mapping[str, float]) -> list[AggregationInput]:
    inputs = [
        AggregationInput(
            update_id=accepted.receipt.update_id,
            site_id=site,
            digest=accepted.receipt.digest,
            num_examples=accepted.manifest.num_examples,
            weight=weights[site],
        )
        for site, accepted in round_.updates.items()
    ]
    return sorted(inputs, key=lambda each: each.digest)
