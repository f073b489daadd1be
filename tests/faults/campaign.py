"""Many deaths of one coordinator, one after another: at every failpoint, and at any moment under load."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from signal import SIGKILL
from types import MappingProxyType
from typing import Final

from tests.faults.arena import Arena
from tests.faults.checks import Auditor
from tests.faults.tally import Tally
from tests.server.harness import SiteCaller

from pfedbayespt.server.failpoints import FAILPOINTS

_ATTEMPTS: Final = 6
_ELSEWHERE: Final = "migration."  # reached at a start-up alone: see test_start_up.py
_OFTEN: Final = ("ingest.", "blob.", "response.")  # reached by each site in a round


def plans(seed: int, repetitions: int) -> list[str]:
    """Return a plan per failpoint and repetition, shuffled; repetitions differ in which time it is reached."""
    points = [name for name in FAILPOINTS if not name.startswith(_ELSEWHERE)]
    drawn = [
        f"{name}@{1 + number % (4 if name.startswith(_OFTEN) else 2)}=kill"
        for number in range(repetitions)
        for name in points
    ]
    random.Random(seed).shuffle(drawn)
    return drawn


def die_by_plan(arena: Arena, auditor: Auditor, tally: Tally, chosen: list[str]) -> None:
    """Have the coordinator die by each plan, the sites going on all the while, and check after every death."""
    arena.attack(chosen)
    while arena.armed:
        deaths = arena.process.deaths
        with tally.faults() as survived:
            _provoke(arena)
            arena.coordinator.anonymous().get("/readyz")
            auditor.check()
            survived(arena.process.deaths - deaths)
    arena.play_round()
    auditor.check()


def endure(
    arena: Arena, auditor: Auditor, tally: Tally, times: int, disturb: Callable[[Arena], None]
) -> None:
    """Disturb the coordinator so many times while all sites are at work at once, then let a round end."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(site: SiteCaller) -> None:
        try:
            while not stop.is_set():
                arena.act(site, site.assignment())
        except BaseException as error:  # noqa: BLE001  (told to the test's own thread)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(site,)) for site in arena.sites]
    for thread in threads:
        thread.start()
    try:
        for _ in range(times):
            with tally.faults() as survived:
                disturb(arena)
                survived(1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures, failures
    arena.play_round()
    auditor.check()


def killed_at_any_moment(seed: int, within_seconds: float = 0.4) -> Callable[[Arena], None]:
    """Return the disturbance of a SIGKILL after a random time, and the wait until it serves again."""
    chance = random.Random(seed)
    return lambda arena: _kill_some_time(arena, chance.uniform(0.0, within_seconds))


def _kill_some_time(arena: Arena, seconds: float) -> None:
    time.sleep(seconds)
    deaths, deadline = arena.process.deaths, time.monotonic() + 60.0
    arena.process.signal(SIGKILL)
    while arena.process.deaths == deaths:
        assert time.monotonic() < deadline, f"nobody notices its death: {arena.process.tail()}"
        time.sleep(0.005)
    arena.coordinator.anonymous().get("/readyz")


def _provoke(arena: Arena) -> None:
    """Do what leads to the point that the coordinator is armed with, until it has died."""
    plan, deaths = arena.armed, arena.process.deaths
    action = _PROVOCATIONS.get(plan.partition(".")[0], Arena.play_round)
    for _ in range(_ATTEMPTS):
        action(arena)
        if arena.process.deaths > deaths or arena.process.died():
            return
    raise AssertionError(f"{plan} was never reached")


def roll_back(arena: Arena) -> None:
    """Promote a version that served before; that it serves already is the answer to a repetition."""
    arena.play_round()
    retired = next(version for version in arena.coordinator.versions() if version["status"] == "retired")
    path = f"/v1/federations/alpha/model-versions/{retired['version_number']}"
    answer = arena.coordinator.admin.request("POST", f"{path}/promote")
    assert answer.status_code in {200, 409}, answer.text


def pause_and_resume(arena: Arena) -> None:
    """Pause the federation and resume it; 409 is the answer to a repetition."""
    for verb in ("pause", "resume"):
        answer = arena.coordinator.admin.request("POST", f"/v1/federations/alpha/{verb}")
        assert answer.status_code in {200, 409}, answer.text
    assert arena.coordinator.admin.get("/v1/federations/alpha")["status"] == "active"


def download(arena: Arena) -> None:
    """Fetch the serving version's file, which is whole or not there."""
    arena.coordinator.parameters(arena.coordinator.versions()[0]["version_number"])


def damage_an_update(arena: Arena) -> None:
    """Damage the file of an accepted update before its round closes."""
    site, deadline = arena.sites[0], time.monotonic() + 60.0
    while (assignment := site.assignment())["action"] != "train":
        assert time.monotonic() < deadline
        arena.play_round()
    receipt = arena.submit(site, assignment["round"]).json()
    damage(arena.process.folder, receipt["digest"])
    arena.play_round()


def damage(folder: Path, digest: str) -> None:
    """Flip a bit of a stored file."""
    digits = digest.removeprefix("sha256:")
    path = folder / "blobs" / "sha256" / digits[:2] / digits
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


_PROVOCATIONS: Final[Mapping[str, Callable[[Arena], None]]] = MappingProxyType(
    {
        "rollback": roll_back,
        "federation": pause_and_resume,
        "serve": download,
        "recompose": damage_an_update,
    }
)
