"""Sites that die by SIGKILL at random moments: every round completes, with the results of an undisturbed run.

A few kills in `make test`; `make faults-site` has a hundred of them over twenty rounds.
"""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from tests.client_sdk.harness import Coordinator, coordinating

from pfedbayespt.client import Site
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.protocol import RoundStatus, UpdateStatus, digest_of_bytes

NUM_KILLS = int(os.environ.get("PFEDBAYESPT_TEST_KILLS", "5"))
NUM_ROUNDS = int(os.environ.get("PFEDBAYESPT_TEST_ROUNDS", "3"))
NAMES = ("clinic-a", "clinic-b")
LONGEST_LIFE_SECONDS = 2.0
FORKS = multiprocessing.get_context("forkserver")  # imports once, then forks: a site starts in a moment
FORKS.set_forkserver_preload(["pfedbayespt.client.site", "pfedbayespt.client.transport"])


def live(directory: Path, images: Path) -> None:
    """What a site's process does."""
    import torch

    torch.set_num_threads(1)
    Site.resume(directory).run(images / "train", images / "held-out")


@dataclass
class Lives:
    """The processes of one site, one after another."""

    directory: Path
    images: Path
    process: BaseProcess = field(init=False)
    num_kills: int = 0

    def start(self) -> None:
        self.process = FORKS.Process(target=live, args=(self.directory, self.images), daemon=True)
        self.process.start()

    def kill(self) -> None:
        """Kill the process, if it still lives, and start another."""
        if self.process.exitcode is None and self.process.pid is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.num_kills += 1
        self.process.join()
        assert self.process.exitcode in {0, -signal.SIGKILL}, "it died of something else"
        self.start()


@contextmanager
def federation(
    folder: Path, backbone_file: Path, config: BackboneConfig, images: Path
) -> Iterator[tuple[Coordinator, list[Lives]]]:
    """A federation of two sites that must both take part in every round, on a coordinator of its own."""
    with coordinating(folder / "coordinator", backbone_file, config) as coordinator:
        coordinator.found(num_rounds=NUM_ROUNDS - 1, training={"local_epochs": 3, "batch_size": 4})
        for name in NAMES:
            coordinator.enrol(folder / name, name)
        sites = [Lives(folder / name, images) for name in NAMES]
        for site in sites:
            site.start()
        try:
            yield coordinator, sites
        finally:
            for site in sites:
                site.process.kill()
                site.process.join()


def num_published(coordinator: Coordinator) -> int:
    return coordinator.admin.federations.get("shapes").rounds_published


def wait_until_published(coordinator: Coordinator, number: int, deadline_seconds: float = 240) -> None:
    until = time.monotonic() + deadline_seconds
    while num_published(coordinator) < number:
        assert time.monotonic() < until, f"round {number} does not complete"
        time.sleep(0.05)


def disturb(coordinator: Coordinator, sites: list[Lives], seed: int) -> int:
    """Kill sites at random moments, about equally often in every round; return how often."""
    moments, num_kills = random.Random(seed), 0
    while num_kills < NUM_KILLS:
        due = num_kills * NUM_ROUNDS // NUM_KILLS
        if due > num_published(coordinator):  # this round has had its share
            wait_until_published(coordinator, due)
        time.sleep(moments.uniform(0, LONGEST_LIFE_SECONDS))
        moments.choice(sites).kill()
        num_kills = sum(site.num_kills for site in sites)
    return num_kills


def results(coordinator: Coordinator) -> list[str]:
    """The digest of each version's tensors; its manifest also names rounds and sites, whose ids are random."""
    versions = coordinator.admin.model_versions
    files = (
        versions.download("shapes", version.version_number, version.digest)
        for version in versions.list("shapes")
    )
    return [digest_of_bytes(file[8 + int.from_bytes(file[:8], "little") :]) for file in files]


@pytest.mark.timeout(1800)
def test_sites_killed_at_random_moments_lose_nothing_and_change_nothing(
    tmp_path: Path, backbone_file: Path, backbone_config: BackboneConfig, images: Path
) -> None:
    with federation(tmp_path / "quiet", backbone_file, backbone_config, images) as (coordinator, _):
        wait_until_published(coordinator, NUM_ROUNDS)
        expected = results(coordinator)
    assert len(expected) == NUM_ROUNDS + 1

    with federation(tmp_path / "killed", backbone_file, backbone_config, images) as (coordinator, sites):
        num_kills = disturb(coordinator, sites, seed=7)
        wait_until_published(coordinator, NUM_ROUNDS)
        rounds = list(coordinator.admin.rounds.list("shapes"))
        updates = [list(coordinator.admin.updates.list(round_.round_id)) for round_ in rounds]
        assert results(coordinator) == expected, "a site that dies computes what it would have computed"
    assert num_kills >= NUM_KILLS
    assert [round_.status for round_ in rounds] == [RoundStatus.PUBLISHED] * NUM_ROUNDS
    for submitted in updates:
        assert len({update.site_id for update in submitted}) == len(submitted) == len(NAMES), "none twice"
        assert {update.status for update in submitted} == {UpdateStatus.AGGREGATED}, "none lost"
