"""A federation with a history: three sites, rounds of statistics and of training, and its export."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.server.harness import ADMIN_TOKEN, Coordinator, SiteCaller, running, settings_for

from pfedbayespt.cli.audit.archive import Archive
from pfedbayespt.cli.audit.export import write_export
from pfedbayespt.client import CoordinatorClient, HttpAnswer, HttpRequest, Timeouts
from pfedbayespt.protocol import Receipt

POLICY: dict[str, Any] = {"num_rounds": 2, "min_sites_to_start": 3, "quorum": 2}


@dataclass
class History:
    """A running coordinator, its sites, and the receipts that they kept."""

    coordinator: Coordinator
    sites: list[SiteCaller]
    receipts: list[Receipt]

    def client(self) -> CoordinatorClient:
        return CoordinatorClient("http://localhost", ADMIN_TOKEN, transport=self._send)

    def _send(self, request: HttpRequest, timeouts: Timeouts) -> HttpAnswer:
        response = self.coordinator.http.request(
            request.method, request.url, headers=dict(request.headers), content=request.body
        )
        headers = {name.lower(): value for name, value in response.headers.items()}
        return HttpAnswer(response.status_code, headers, response.content)

    def export(self, folder: Path) -> Archive:
        write_export(self.client(), "alpha", folder, with_files=True)
        return Archive.read(folder)


@contextmanager
def history(
    folder: Path, *, rounds_played: int = 3, database_url: str | None = None, **policy: Any
) -> Iterator[History]:
    """Run a coordinator and play rounds in which every site takes part."""
    with running(settings_for(folder, database_url=database_url)) as coordinator:
        coordinator.federation(**(POLICY | policy))
        made = History(coordinator, coordinator.sites(3), [])
        for number in range(rounds_played):
            coordinator.settle()
            for position, site in enumerate(made.sites):
                made.receipts.append(Receipt.model_validate(site.train(0.1 * (number + position + 1), 10)))
            coordinator.settle()
            for site in made.sites:
                if site.assignment()["action"] == "evaluate":
                    site.evaluate(0.5)
            coordinator.settle()
        yield made
