"""Replicas on PostgreSQL and S3: whichever dies, whatever is away for a while, sites see a retry, nothing else."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.faults.process import CoordinatorProcess
from tests.replicas.balancer import Balancer
from tests.replicas.conftest import FULL, Backing
from tests.server.harness import ADMIN_TOKEN
from tests.server.serving_parts import encoded, parameters_of, picture, specification_on, tiny_backbone

from pfedbayespt.client import CoordinatorClient, Timeouts
from pfedbayespt.protocol import Assignment, RoundStatus, tensors
from pfedbayespt.server.operations import verify
from pfedbayespt.simulation.synthetic import (
    FEDERATION,
    SyntheticSite,
    blank_parameters,
    found,
    live_together,
    mean_delta,
    specification,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ARRAYS = blank_parameters(megabytes=0.5)
IMAGE = encoded(picture())
PATIENT = Timeouts(total_seconds=120.0)


class Federation:
    """Sites behind a balancer, and what must be true of their rounds in the end."""

    def __init__(self, url: str, num_sites: int = 4) -> None:
        self.url = url
        self.admin = CoordinatorClient(url, ADMIN_TOKEN, timeouts=PATIENT)
        found(self.admin, specification(num_sites), ARRAYS)
        self.sites = [
            SyntheticSite.enrol(self.admin, url, number, ARRAYS, PATIENT) for number in range(num_sites)
        ]

    def play_until(self, last_round: int) -> None:
        """Let the sites live until a later round collects."""

        def is_over(assignment: Assignment) -> bool:
            return assignment.round is not None and assignment.round.round_number > last_round

        live_together(self.sites, is_over)

    def check(self, last_round: int) -> None:
        """Every receipt's update counts, every round led to one version, and each is the mean that NumPy says."""
        rounds = [one for one in self.admin.rounds.list(FEDERATION) if one.round_number <= last_round]
        assert [one.status for one in rounds] == [RoundStatus.PUBLISHED] * last_round
        versions = {one.round_id: one for one in self.admin.model_versions.list(FEDERATION)}
        for one in rounds:
            inputs = {part.digest for part in versions[one.round_id].inputs}
            assert inputs == {site.receipts[one.round_id].digest for site in self.sites}
            moved = self._parameters(versions[one.round_id].version_number)
            start = self._parameters(one.base_version)
            expected = mean_delta([site.drawn for site in self.sites], one.round_number, one.task)
            for name, change in expected.items():
                np.testing.assert_allclose(moved[name] - start[name], change, atol=1e-6)

    def _parameters(self, number: int) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
        version = self.admin.model_versions.get(FEDERATION, number)
        return tensors.decode(self.admin.model_versions.download(FEDERATION, number, version.digest))[1]


@contextmanager
def meanwhile(action: Callable[[threading.Event], None]) -> Iterator[None]:
    """Do that in a thread until the block ends."""
    stopping = threading.Event()
    thread = threading.Thread(target=action, args=(stopping,))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def killing(
    replicas: list[CoordinatorProcess], deaths: list[int], chance: random.Random
) -> Callable[[threading.Event], None]:
    """Return what kills either replica at random moments, and starts it again a little later."""

    def go_on(stopping: threading.Event) -> None:
        while not stopping.wait(chance.uniform(0.05, 0.5)):
            victim = chance.choice(replicas)
            victim.kill()
            deaths.append(victim.port)
            stopping.wait(chance.uniform(0.0, 0.5))
            victim.start()

    return go_on


def test_killing_either_replica_at_random_moments_costs_the_sites_a_retry(
    backing: Backing, two_replicas: list[CoordinatorProcess]
) -> None:
    last_round, deaths = (30 if FULL else 3), list[int]()
    with Balancer([replica.port for replica in two_replicas]) as balancer:
        federation = Federation(balancer.url)
        with meanwhile(killing(two_replicas, deaths, random.Random(4))):
            federation.play_until(last_round)
        federation.check(last_round)
    assert len(deaths) >= 2
    report = verify(backing.settings("verify"))
    assert (report.problems, report.federations) == ((), 1)


@pytest.mark.thorough
def test_a_database_that_crashes_and_an_object_store_that_stops_are_survived(
    backing: Backing, two_replicas: list[CoordinatorProcess]
) -> None:
    outages, last_round = list[str](), 0

    def take_away(stopping: threading.Event) -> None:
        while True:
            for name, stop, start in (
                ("database", backing.database.crash, backing.database.start),
                ("objects", backing.objects.stop, backing.objects.start),
                ("hang", backing.objects.pause, backing.objects.resume),
            ):
                if stopping.wait(0.5):
                    return
                stop()
                time.sleep(0.5)
                start()
                outages.append(name)

    with Balancer([replica.port for replica in two_replicas]) as balancer:
        federation = Federation(balancer.url)
        with meanwhile(take_away):
            while len(outages) < 6:
                last_round += 4
                federation.play_until(last_round)
        federation.check(last_round)
    assert all(replica.deaths == 0 for replica in two_replicas)
    assert verify(backing.settings("verify")).problems == ()


@pytest.mark.thorough
def test_an_inference_replica_serves_what_the_coordinators_publish_and_outlives_all_others(
    backing: Backing, tmp_path: Path
) -> None:
    backbones = tmp_path / "backbones"
    config = tiny_backbone(backbones)
    terms = specification_on(config, rounds=specification(2).rounds)
    start = parameters_of(terms, next(backbones.iterdir()), seed=1)
    coordinator = backing.replica("coordinator")
    inference = backing.replica(
        "inference", roles=["inference"], backbone_cache_dir=backbones, preload_interval_seconds=0.1
    )
    with (
        CoordinatorClient(coordinator.url, ADMIN_TOKEN) as admin,
        CoordinatorClient(inference.url, ADMIN_TOKEN, timeouts=PATIENT) as asking,
    ):
        found(admin, terms, start)
        sites = [SyntheticSite.enrol(admin, coordinator.url, number, start) for number in range(2)]
        first = asking.predict(FEDERATION, IMAGE)
        assert first.model_version == 0
        live_together(
            sites, lambda assignment: assignment.round is not None and assignment.round.round_number > 1
        )
        second = asking.predict(FEDERATION, IMAGE)
        assert second.model_version == 1
        coordinator.kill()
        backing.objects.stop()
        assert asking.predict(FEDERATION, IMAGE).probabilities == second.probabilities
        backing.objects.start()
