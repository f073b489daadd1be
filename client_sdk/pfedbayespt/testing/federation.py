"""What a fake coordinator knows: one federation, its sites, rounds and versions, in memory.

It follows the real coordinator's rules as far as a site can see them:
1. Rounds run by themselves: the first asks for statistics, `num_rounds` more for training. One begins when
   `min_sites_to_start` sites are there, and asks all of them.
2. A round closes when every site has submitted, or by `close`; the weighted mean of its updates is the next
   version. Sites evaluate it if the specification says so; then it serves.
3. An update is checked before it counts: its site's signature over exactly these bytes for this round, then the
   file. The same bytes again are answered with the same receipt, others are refused.
"""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
from pydantic import ValidationError

from pfedbayespt.protocol import (
    Assignment,
    CoordinatorIdentity,
    Evaluation,
    FederationSpecification,
    FederationStatus,
    FederationTerms,
    KeyPossession,
    ModelVersion,
    ModelVersionStatus,
    ProblemType,
    Receipt,
    Round,
    RoundStatus,
    RoundTask,
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
    digest_of_bytes,
    tensors,
)
from pfedbayespt.testing.checks import (
    check_claims,
    check_numbers,
    check_signed,
    check_supported,
    submitted_before,
)
from pfedbayespt.testing.lineage import Lineage
from pfedbayespt.testing.records import Accepted, Arrays, LiveRound, Member, Refusal, Version

_MAX_LIVE_KEYS: Final = 2


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
        check_supported(specification)
        self.name = name
        self.key = SigningKey.generate()
        self._lineage = Lineage(name, specification, self.key)
        self.members: dict[str, Member] = {}
        self.rounds: list[LiveRound] = []
        self.quarantined: list[str] = []
        self._tokens: dict[str, str] = {}
        self._schema = tensors.schema_of(initial)
        self.versions = [self._lineage.first(initial)]
        self.versions[0].status = ModelVersionStatus.SERVING

    @property
    def specification(self) -> FederationSpecification:
        """What sites are asked to follow."""
        return self._lineage.specification

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

    def break_agreement(self, specification: FederationSpecification) -> None:
        """Ask sites to follow another specification than they agreed to, which no coordinator may do."""
        check_supported(specification)
        self._lineage = Lineage(self.name, specification, self.key)

    # Sites

    def invite(self, organisation: str = "clinic") -> str:
        """Return a one-use enrolment token."""
        token = secrets.token_urlsafe(24)
        self._tokens[token] = organisation
        return token

    def enrol(self, request: SiteEnrol) -> SiteEnrolment:
        """Redeem a token."""
        check_signed(request, request.public_key)
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
        check_signed(new, new.public_key)
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
        check_signed(message, key.public_key)

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
            specification_digest=self._lineage.specification_digest,
            terms=FederationTerms.signed(
                self.key,
                federation=self.name,
                specification_digest=self._lineage.specification_digest,
                backbone_digest=self.specification.backbone.weights_digest,
                issued_at=self.versions[0].manifest.created_at,
            ),
            round=None if live is None else self.describe(live, (member.site.site_id,)),
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
        there = submitted_before(round_, site_id, digest)
        self.check_own_signature(member, statement)
        stated = (statement.federation, statement.site_id, statement.round_id, statement.update_digest)
        if stated != (self.name, site_id, round_id, digest):
            raise Refusal(ProblemType.SIGNATURE_REJECTED, f"the statement is for {stated}")
        if there is not None:
            return there.receipt, False
        manifest, arrays = self._read(round_, content)
        if (statement.base_digest, statement.num_examples) != (manifest.base_digest, manifest.num_examples):
            raise Refusal(ProblemType.SIGNATURE_REJECTED, "the statement and the update's manifest differ")
        receipt = self._lineage.receipt(round_id, site_id, content)
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

    def describe(self, round_: LiveRound, cohort: tuple[str, ...]) -> Round:
        """Return the round's message; of the cohort, an assignment names its own site alone."""
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
            cohort=cohort,
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
            check_claims(manifest, self.name, round_)
            check_numbers(arrays, round_.task)
        except (TensorFileError, ValidationError, ValueError) as error:
            self.quarantined.append(digest_of_bytes(content))
            raise Refusal(ProblemType.UPDATE_REJECTED, str(error)) from error
        return manifest, arrays

    def _aggregate(self, round_: LiveRound) -> None:
        number, policy = len(self.versions), self.specification.rounds
        round_.result = self._lineage.after(round_, number, policy.max_weight_ratio)
        self.versions.append(round_.result)
        if policy.evaluate and round_.task is RoundTask.TRAINING:
            round_.status = RoundStatus.EVALUATING
        else:
            self._publish(round_)

    def _publish(self, round_: LiveRound) -> None:
        self.serving.status = ModelVersionStatus.RETIRED
        if round_.result is not None:
            round_.result.status = ModelVersionStatus.SERVING
        round_.status = RoundStatus.PUBLISHED
        self._start_round_if_due()
