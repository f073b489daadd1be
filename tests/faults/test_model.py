"""Any sequence of what members, admins, workers and crashes may do, against a model of what must come of it.

The model is a dictionary of receipts per round, and what a round's closing must make of them. After every step:
P1 (no receipt is lost), P2 (one version per round at most, from the recorded inputs) and P3 (its bytes are what a
second implementation computes), as `checks.py` has them.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.faults.arena import Ledger
from tests.faults.checks import Auditor
from tests.faults.conftest import Place, repetitions
from tests.faults.tally import Tally
from tests.server.harness import Coordinator, SiteCaller, running, settings_for

QUORUM = 2
POLICY = {"num_rounds": 1000, "min_sites_to_start": QUORUM, "quorum": QUORUM, "evaluate": False}
numbers = st.integers(0, 7)


class Federation(RuleBasedStateMachine):
    """A coordinator whose process ends at any time; `place` and `tally` are given by the test."""

    place: Callable[[], Place]
    tally: Tally

    @initialize()
    def found(self) -> None:
        self.stack = ExitStack()
        place = type(self).place()
        self.settings = settings_for(place.folder, database_url=place.database_url)
        self.coordinator: Coordinator = self.stack.enter_context(running(self.settings))
        self.coordinator.federation(**POLICY)
        self.sites: list[SiteCaller] = self.coordinator.sites(QUORUM)
        self.gone: set[str] = set()
        self.ledger = Ledger()
        self.auditor = Auditor(place.effective_database_url, place.folder, self.ledger)
        self.coordinator.settle()

    @rule()
    @precondition(lambda self: len(self.sites) < 5)
    def enrol(self) -> None:
        self.sites.append(self.coordinator.enrol(name=f"site-{len(self.sites) + 1}"))

    @rule(number=numbers)
    def submit(self, number: int) -> None:
        site, round_ = self.site(number), self.round()
        answer = site.submit_file(round_["round_id"], self.ledger.file_of(site, round_))
        expected = self.status_expected(site, round_)
        assert answer.status_code == expected, answer.text
        if expected in {200, 201}:
            self.ledger.note(answer.json())

    @rule(number=numbers)
    @precondition(lambda self: self.ledger.receipts)
    def repeat_any_update(self, number: int) -> None:
        keys = sorted(self.ledger.receipts)
        round_id, site_id = keys[number % len(keys)]
        site = next(site for site in self.sites if site.site_id == site_id)
        answer = site.submit_file(round_id, self.ledger.files[round_id, site_id])
        assert answer.status_code == (200 if site_id not in self.gone else answer.status_code)
        if answer.status_code == 200:
            self.ledger.note(answer.json())

    @rule(number=numbers, way=st.sampled_from(["other", "bit", "foreign"]))
    def tamper(self, number: int, way: str) -> None:
        site, round_ = self.site(number), self.round()
        content = site.update(round_, 0.875, num_examples=3)
        if way == "bit":
            content = content[:20] + bytes([content[20] ^ 1]) + content[21:]
        elif way == "foreign":
            content = site.update(round_ | {"round_id": "rnd_foreign"}, 0.875, num_examples=3)
        elif (round_["round_id"], site.site_id) not in self.ledger.receipts:
            return  # it would be an honest first update
        answer = site.submit_file(round_["round_id"], content)
        assert 400 <= answer.status_code < 500, answer.text

    @rule()
    def close(self) -> None:
        round_ = self.round()
        answer = self.coordinator.admin.request("POST", f"/v1/rounds/{round_['round_id']}/close")
        can_close = round_["status"] == "collecting" and len(self.accepted_in(round_)) >= QUORUM
        assert (answer.status_code == 200) == can_close, answer.text

    @rule()
    def tick(self) -> None:
        self.coordinator.tick()

    @rule()
    def crash_and_restart(self) -> None:
        """Begin anew with nothing but the database and the files."""
        self.coordinator.context.database.close()
        clock = self.coordinator.clock
        self.stack.close()
        self.coordinator = self.stack.enter_context(running(self.settings, clock))
        for site in self.sites:
            site.http = self.coordinator.http

    @rule(number=numbers, verb=st.sampled_from(["suspend", "reinstate"]))
    def shut_out(self, number: int, verb: str) -> None:
        site = self.site(number)
        answer = self.coordinator.admin.request("POST", f"/v1/sites/{site.site_id}/{verb}")
        if answer.status_code == 200:
            (self.gone.add if verb == "suspend" else self.gone.discard)(site.site_id)

    @rule(number=numbers)
    def roll_back(self, number: int) -> None:
        retired = [version for version in self.coordinator.versions() if version["status"] == "retired"]
        if retired:
            chosen = retired[number % len(retired)]["version_number"]
            self.coordinator.admin.post(f"/v1/federations/alpha/model-versions/{chosen}/promote")
            assert self.coordinator.admin.get("/v1/federations/alpha")["serving_version"] == chosen

    @rule()
    def settle(self) -> None:
        """Let the worker come to rest: what had a quorum of all its sites is published."""
        self.coordinator.settle()
        assert self.round()["status"] != "aggregating"

    @invariant()
    def the_promises_hold(self) -> None:
        if hasattr(self, "auditor"):
            self.auditor.check()

    def teardown(self) -> None:
        if hasattr(self, "auditor"):
            self.stack.close()
            self.auditor.enter_into(self.tally)

    def site(self, number: int) -> SiteCaller:
        return self.sites[number % len(self.sites)]

    def round(self) -> dict[str, Any]:
        latest: dict[str, Any] = self.coordinator.live_round()
        return latest

    def accepted_in(self, round_: dict[str, Any]) -> list[str]:
        return [site_id for round_id, site_id in self.ledger.receipts if round_id == round_["round_id"]]

    def status_expected(self, site: SiteCaller, round_: dict[str, Any]) -> int:
        """Return what the model says of a site's own, honest update."""
        if site.site_id in self.gone:
            return 403
        if (round_["round_id"], site.site_id) in self.ledger.receipts:
            return 200
        if site.site_id not in round_["cohort"]:
            return 403
        return 201 if round_["status"] == "collecting" else 409


@pytest.mark.timeout(900)
def test_no_sequence_of_events_breaks_a_promise(tally: Tally, new_place: Callable[[], Place]) -> None:
    machine = type("FederationHere", (Federation,), {"place": staticmethod(new_place), "tally": tally})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=repetitions(3, 30),
            stateful_step_count=repetitions(15, 40),
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )
