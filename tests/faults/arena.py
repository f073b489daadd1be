"""A federation that goes on regardless: sites that send again what got no answer, and what they hold by now.

The sites do what `pfedbayespt.client.Site` does: ask for the assignment, do it, and repeat a request that broke off
with the same bytes. Whenever the coordinator dies, it is started again, armed with the next plan.
"""

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.faults.process import CoordinatorProcess
from tests.server.harness import Coordinator, MovableClock, SiteCaller

_PATIENCE_SECONDS = 60.0
_DEATH_SECONDS = 1.0  # a connection that breaks while the process lives on costs this long
POLICY = {"num_rounds": 100_000, "min_sites_to_start": 3, "quorum": 2, "deadline_seconds": 3600.0}


class PatientHttp:
    """An HTTP client that sends a request again until it is answered, and sees to it that somebody can answer."""

    def __init__(self, process: CoordinatorProcess, revive: Callable[[int], None]) -> None:
        self._http = httpx.Client(base_url=process.url, timeout=10.0)
        self._process = process
        self._revive = revive

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            deaths = self._process.deaths
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                self._revive(deaths)
                continue
            if response.status_code not in {500, 503} or time.monotonic() > deadline:
                return response
            time.sleep(0.02)

    def close(self) -> None:
        self._http.close()


@dataclass
class Ledger:
    """What the sites hold: every file they made, and every receipt they got."""

    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    receipts: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def note(self, receipt: dict[str, Any]) -> None:
        """Keep a receipt; a repeated one must say the same."""
        known = self.receipts.setdefault((receipt["round_id"], receipt["site_id"]), receipt)
        assert (known["update_id"], known["digest"]) == (receipt["update_id"], receipt["digest"])

    def file_of(self, site: SiteCaller, round_: dict[str, Any]) -> bytes:
        """Return the site's update of the round, the same bytes every time."""
        key = (round_["round_id"], site.site_id)
        if key not in self.files:
            draw = hashlib.sha256("/".join(key).encode()).digest()
            value = int.from_bytes(draw[:4]) / 2**32 - 0.5
            self.files[key] = site.update(round_, value, num_examples=1 + draw[4])
        return self.files[key]

    def content(self, digest: str) -> bytes:
        """Return the file of that digest."""
        for (round_id, site_id), receipt in self.receipts.items():
            if receipt["digest"] == digest:
                return self.files[round_id, site_id]
        raise AssertionError(f"no site holds a receipt for {digest}")


class Arena:
    """A coordinator process, its sites, and the plans by which it is to die."""

    def __init__(self, process: CoordinatorProcess) -> None:
        self.process = process
        self.ledger = Ledger()
        self.plans: deque[str] = deque()
        self.armed = ""
        self.sites: list[SiteCaller] = []
        self._lock = threading.Lock()
        self.http = PatientHttp(process, self.revive)
        self.coordinator = Coordinator(self.http, MovableClock())  # type: ignore[arg-type]

    def found(self, num_sites: int = 3, **policy: Any) -> None:
        """Start the coordinator, and make a federation with its sites."""
        if self.process.pid is None:
            self.process.start()
        self.coordinator.federation(**(POLICY | policy))
        self.sites = self.coordinator.sites(num_sites)

    def attack(self, plans: list[str]) -> None:
        """Have the coordinator die by each of these plans, one after another, from a restart on."""
        self.plans.extend(plans)
        self.process.kill()
        self.revive(self.process.deaths)

    def revive(self, deaths: int) -> None:
        """Start the coordinator again, armed with the next plan, if it has died since it had died so many times."""
        with self._lock:
            if self.process.deaths == deaths and self.process.died(_DEATH_SECONDS):
                self.armed = self.plans.popleft() if self.plans else ""
                self.process.start(self.armed)

    def round(self) -> Any:
        """Return the latest round."""
        return next(iter(self.coordinator.admin.get("/v1/federations/alpha/rounds?limit=1")["items"]), None)

    def play_round(self) -> None:
        """Go on until the sites are asked to train for the next round, or are told that all is over."""
        number, deadline = None, time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            assignments = [site.assignment() for site in self.sites]
            for site, assignment in zip(self.sites, assignments, strict=True):
                if (asked := (assignment["round"] or {}).get("round_number", number)) != number:
                    if number is not None:
                        return
                    number = asked
                self.act(site, assignment)
            if {assignment["action"] for assignment in assignments} == {"finished"}:
                return
            if {assignment["action"] for assignment in assignments} == {"wait"}:
                time.sleep(0.01)
        raise AssertionError(f"round {number} does not end: {self.round()}; {self.process.tail()}")

    def act(self, site: SiteCaller, assignment: dict[str, Any]) -> None:
        """Do what the site's assignment asks."""
        match assignment["action"]:
            case "train":
                self.submit(site, assignment["round"])
            case "evaluate":
                site.report(assignment["model_version"], accuracy=0.5)

    def submit(self, site: SiteCaller, round_: dict[str, Any]) -> httpx.Response:
        """Send the site's update and keep the receipt, if there is one."""
        response: httpx.Response = site.submit_file(round_["round_id"], self.ledger.file_of(site, round_))
        if response.status_code in {200, 201}:
            self.ledger.note(response.json())
        else:
            assert response.json()["type"].endswith("round_closed"), response.text
        return response

    def close(self) -> None:
        """End the process."""
        self.plans.clear()
        self.process.kill()
        self.http.close()
