"""Thousands of sites at a real coordinator: enrolment, keys, tokens, signed updates, all of it over HTTP.

Rules:
1. A Ray task stands for 20 to 100 sites, one after the other; a task, not an actor, so that a site is no process
   and costs nothing between its turns. What a site keeps, its id, its key and its token, travels with the task.
2. A turn is what a site does when it asks for work and gets some: it reads its assignment, downloads the version,
   and submits an update or reports an evaluation. Turns happen when the coordinator has work; asking in vain, as a
   site on the network does every `retry_after_seconds`, is measured once, at the end.
3. A turn may be taken again, as it is when the site's token expires in the midst of it, and as Ray does when a
   machine is lost: the same site in the same round sends the same bytes.
4. The admin's token never goes into a task: sites get one enrolment token each, as people do.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final, TypeVar

import numpy as np

from pfedbayespt.client import CoordinatorClient, Timeouts
from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.client.errors import AuthenticationRequired
from pfedbayespt.client.transport import HttpxTransport, Transport
from pfedbayespt.protocol import (
    Assignment,
    FederationSpecification,
    FederationStatus,
    Round,
    RoundStatus,
    SigningKey,
    SiteAction,
    UpdateManifest,
    digest_of_bytes,
    tensors,
)
from pfedbayespt.simulation.measuring import Meter
from pfedbayespt.simulation.outcome import Outcome, RoundRow
from pfedbayespt.simulation.population import Arrays, Population
from pfedbayespt.simulation.synthetic import FEDERATION, create

PATIENT: Final = Timeouts(read_seconds=600.0, total_seconds=600.0)
_CPUS_PER_TASK: Final = 0.5  # for half of its time a task waits for the coordinator
_LOOK_EVERY_SECONDS: Final = 0.2
_WORK: Final = (RoundStatus.COLLECTING, RoundStatus.EVALUATING)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Member:
    """An enrolled site: all that it keeps between two turns."""

    number: int
    site_id: str
    key_pem: bytes = field(repr=False)
    coordinator_key_id: str
    token: str = field(repr=False)


@dataclass(frozen=True)
class Turns:
    """What the sites of one task did: who they are now, how many did what, and the losses that they reported."""

    members: list[Member]
    updates: int = 0
    losses: tuple[float, ...] = ()


def enrol(url: str, invited: Sequence[tuple[int, str]]) -> list[Member]:
    """Redeem some sites' tokens, each with a fresh key, and sign them in; `invited` pairs numbers with tokens."""
    transport = HttpxTransport()
    nobody = CoordinatorClient(url, timeouts=PATIENT, transport=transport)
    members = []
    for number, token in invited:
        key, coordinator = SigningKey.generate(), nobody.identity()
        site = nobody.sites.enrol(token, f"site-{number}", key, coordinator.key_id).site
        identity = SiteIdentity(site.site_id, key, coordinator.key_id)
        access = identity.access_token(nobody.access_token)
        members.append(Member(number, site.site_id, key.to_pem(), coordinator.key_id, access))
    transport.close()
    return members


def take_turns(url: str, members: Sequence[Member], population: Population) -> Turns:
    """Let each of the sites ask once for work, and do it."""
    transport, turns = HttpxTransport(), Turns([])
    for member in members:
        turns = _Visit(url, member, population, transport).added_to(turns)
    transport.close()
    return turns


@dataclass
class _Visit:
    """One site's turn."""

    url: str
    member: Member
    population: Population
    transport: Transport

    def added_to(self, turns: Turns) -> Turns:
        """Take the turn, and return the turns with this one."""
        try:
            return self._taken(turns)
        except AuthenticationRequired:  # its token has expired
            nobody = CoordinatorClient(self.url, timeouts=PATIENT, transport=self.transport)
            self.member = replace(self.member, token=self._identity().access_token(nobody.access_token))
            return self._taken(turns)

    def _taken(self, turns: Turns) -> Turns:
        assignment = self._client().sites.assignment()
        updates, losses = turns.updates, turns.losses
        if assignment.action is SiteAction.TRAIN and assignment.round is not None:
            self._submit(assignment.round)
            updates += 1
        elif assignment.action is SiteAction.EVALUATE:
            losses = (*losses, self._evaluate(assignment))
        return Turns([*turns.members, self.member], updates, losses)

    def _submit(self, round_: Round) -> None:
        base = self._parameters(round_.federation, round_.base_version, round_.base_digest)
        manifest = UpdateManifest(
            federation=round_.federation,
            round_id=round_.round_id,
            task=round_.task,
            base_digest=round_.base_digest,
            num_examples=self.population.num_examples(self.member.number),
        )
        delta = self.population.delta(self.member.number, base, round_.task)
        content = tensors.encode(delta, manifest)
        statement = self._identity().statement(manifest, digest_of_bytes(content))
        self._client().updates.submit(statement, content)

    def _evaluate(self, assignment: Assignment) -> float:
        number, digest = assignment.model_version, assignment.model_digest
        if number is None or digest is None:
            raise LookupError("the coordinator asks to evaluate no version")
        parameters = self._parameters(assignment.federation, number, digest)
        report = self.population.evaluation(self.member.number, parameters)
        self._client().model_versions.report_evaluation(
            assignment.federation, number, self.member.site_id, report
        )
        return report.metrics["loss"]

    def _parameters(self, federation: str, number: int, digest: str) -> Arrays:
        return tensors.decode(self._client().model_versions.download(federation, number, digest))[1]

    def _client(self) -> CoordinatorClient:
        return CoordinatorClient(self.url, self.member.token, timeouts=PATIENT, transport=self.transport)

    def _identity(self) -> SiteIdentity:
        key = SigningKey.from_pem(self.member.key_pem)
        return SiteIdentity(self.member.site_id, key, self.member.coordinator_key_id)


class RayTasks:
    """Runs the functions above for many sites, so many to a task, on whatever machines Ray has.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """

    def __init__(self, sites_per_task: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of ours calls home
        import ray

        self._ray = ray
        self._sites_per_task = sites_per_task
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)

    def enrol(self, url: str, invited: Iterator[tuple[int, str]]) -> list[Member]:
        """Enrol all who are invited; the next are invited while the first enrol. A token is good only once."""
        task = self._ray.remote(num_cpus=_CPUS_PER_TASK, max_retries=0)(enrol)
        pending = [task.remote(url, batch) for batch in _batches(invited, self._sites_per_task)]
        return [member for enrolled in self._ray.get(pending) for member in enrolled]

    def take_turns(self, url: str, members: Sequence[Member], population: Population) -> Turns:
        """Let all of the sites take a turn."""
        task = self._ray.remote(num_cpus=_CPUS_PER_TASK)(take_turns)
        batches = _batches(iter(members), self._sites_per_task)
        parts: list[Turns] = self._ray.get([task.remote(url, batch, population) for batch in batches])
        return Turns(
            [member for part in parts for member in part.members],
            sum(part.updates for part in parts),
            tuple(loss for part in parts for loss in part.losses),
        )

    def close(self) -> None:
        """Leave Ray."""
        self._ray.shutdown()


@dataclass
class Simulation:
    """A federation of sites, and what is noted of its rounds while they run.

    Attributes:
        admin: founds the federation.
        url: where sites reach the coordinator.
        tasks: runs the sites.
        meter: of the coordinator's process; None: it runs elsewhere.
    """

    admin: CoordinatorClient
    url: str
    tasks: RayTasks
    population: Population
    meter: Meter | None
    _members: list[Member] = field(default_factory=list)
    _cpu: dict[int, float] = field(default_factory=dict)
    _losses: dict[int, tuple[float, ...]] = field(default_factory=dict)

    def run(self, specification: FederationSpecification, initial: Arrays, num_sites: int) -> Outcome:
        """Found the federation, enrol the sites, run all its rounds, and return how they went."""
        create(self.admin, specification, dict(initial))
        idle, begun = self._cpu_seconds(), time.monotonic()
        self._members = self.tasks.enrol(self.url, self._invitations(num_sites))
        enrolled, took = self._cpu_seconds(), time.monotonic() - begun
        self.admin.federations.activate(FEDERATION)
        self._run_rounds()
        rounds, parameters = self._rounds(), self._served()
        costs = {"seconds_to_enrol": took} | self._costs(num_sites, enrolled - idle)
        return Outcome("http", num_sites, rounds, parameters, costs)

    def _invitations(self, num_sites: int) -> Iterator[tuple[int, str]]:
        for number in range(num_sites):
            invitation = self.admin.federations.create_enrolment_token(FEDERATION, f"organisation-{number}")
            yield number, invitation.token

    def _run_rounds(self) -> None:
        """Send the sites whenever there is work for them, until there will be none."""
        served: set[tuple[str, RoundStatus]] = set()
        while not self._is_over():
            asked = [each for each in self._live() if (each.round_id, each.status) not in served]
            for round_ in asked:
                self._cpu.setdefault(round_.round_number, self._cpu_seconds())
                turns = self.tasks.take_turns(self.url, self._members, self.population)
                self._members = turns.members
                served.add((round_.round_id, round_.status))
                if turns.losses:
                    self._losses[round_.round_number] = turns.losses
            if not asked:
                time.sleep(_LOOK_EVERY_SECONDS)

    def _live(self) -> list[Round]:
        return [round_ for status in _WORK for round_ in self.admin.rounds.list(FEDERATION, status=status)]

    def _is_over(self) -> bool:
        federation = self.admin.federations.get(FEDERATION)
        wanted = federation.specification.rounds.num_rounds or 0
        return federation.rounds_published > wanted or federation.status is not FederationStatus.ACTIVE

    def _costs(self, num_sites: int, enrolment: float) -> dict[str, float]:
        """Return what an enrolment cost the coordinator, and what a poll costs: everybody asks once in vain."""
        if self.meter is None:
            return {}
        before = self._cpu_seconds()
        self.tasks.take_turns(self.url, self._members, self.population)
        polls = self._cpu_seconds() - before
        return {
            "coordinator_cpu_seconds_per_enrolment": round(enrolment / num_sites, 6),
            "coordinator_cpu_seconds_per_poll": round(polls / num_sites, 6),
            "coordinator_peak_rss_mb": round(self.meter.peak_rss_mb(), 1),
        }

    def _cpu_seconds(self) -> float:
        return 0.0 if self.meter is None else self.meter.cpu_seconds()

    def _rounds(self) -> tuple[RoundRow, ...]:
        rounds = sorted(self.admin.rounds.list(FEDERATION), key=lambda each: each.round_number)
        begins = [self._cpu[each.round_number] for each in rounds] + [self._cpu_seconds()]
        used = np.diff(begins)
        return tuple(self._row(round_, float(cpu)) for round_, cpu in zip(rounds, used, strict=True))

    def _row(self, round_: Round, cpu_seconds: float) -> RoundRow:
        losses = self._losses.get(round_.round_number)
        finished_at = round_.finished_at or round_.deadline_at
        return RoundRow(
            round_number=round_.round_number,
            task=round_.task,
            status=round_.status,
            updates=round_.updates_accepted,
            seconds=(finished_at - round_.started_at).total_seconds(),
            coordinator_cpu_seconds=None if self.meter is None else cpu_seconds,
            loss=float(np.mean(losses)) if losses else None,
        )

    def _served(self) -> Arrays:
        number = self.admin.federations.get(FEDERATION).serving_version or 0
        digest = self.admin.model_versions.get(FEDERATION, number).digest
        return tensors.decode(self.admin.model_versions.download(FEDERATION, number, digest))[1]


def _batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while batch := list(islice(items, size)):
        yield batch
