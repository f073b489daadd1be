"""The coordinator dies at every point it can name, and at any moment; nothing acknowledged is lost (P1 to P3)."""

import pytest
from tests.faults.arena import Arena
from tests.faults.campaign import die_by_plan, endure, killed_at_any_moment, plans
from tests.faults.checks import Auditor
from tests.faults.conftest import repetitions
from tests.faults.tally import Tally

pytestmark = pytest.mark.e2e
QUICK = [
    "ingest.after_auth@1=kill",
    "blob.after_rename@2=kill",
    "ingest.after_put@3=kill",
    "ingest.before_commit@1=kill",
    "ingest.after_commit@2=kill",
    "response.after_headers@2=kill",
    "close.before_commit@1=kill",
    "aggregate.after_put@1=kill",
    "publish.before_commit@1=kill",
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(repetitions(1, 2)))
def test_a_coordinator_killed_at_any_failpoint_goes_on_with_the_same_round(
    arena: Arena, auditor: Auditor, tally: Tally, seed: int
) -> None:
    arena.found()
    die_by_plan(arena, auditor, tally, repetitions(0, 1) * plans(seed, 2) or QUICK)


@pytest.mark.timeout(900)
def test_a_coordinator_killed_at_any_moment_under_load_goes_on_with_the_same_round(
    arena: Arena, auditor: Auditor, tally: Tally
) -> None:
    arena.found(num_sites=4)
    endure(arena, auditor, tally, repetitions(3, 80), killed_at_any_moment(seed=7))
