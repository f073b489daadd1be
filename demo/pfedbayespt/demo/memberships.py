"""The sites of the demo's federations, each a process of its own.

The rivals of the method are federations too, on the same coordinator and the same terms but one: `shared` gives
every image the same prompt, and a federation of one site is that site training alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pfedbayespt.client import CoordinatorClient, Site
from pfedbayespt.demo.processes import Coordinator, Process, running, threads_per_site

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Membership:
    """A site's part in one federation."""

    federation: str
    site_name: str
    images: Path
    state: Path
    log: Path


def memberships(federation: str, folders: Mapping[str, Path]) -> list[Membership]:
    """Return one membership per site folder."""
    return [
        Membership(
            federation,
            site_name,
            images=folder,
            state=folder / "memberships" / federation,
            log=folder / f"{federation}.log",
        )
        for site_name, folder in folders.items()
    ]


def run_sites(
    coordinator: Coordinator,
    client: CoordinatorClient,
    members: Sequence[Membership],
    weights: Path,
    show: Callable[[], None],
) -> None:
    """Enrol every member, run them side by side until their federations are finished; call `show` meanwhile.

    Raises:
        ProcessFailedError: a site ended with an error.
    """
    environment = {"OMP_NUM_THREADS": str(threads_per_site(len(members)))}
    with ExitStack() as stack:
        running_sites: list[Process] = []
        for member in members:
            _enrol(coordinator, client, member, weights)
            arguments = ["site", "run", str(member.state)]
            arguments += [
                "--train",
                str(member.images / "train"),
                "--held-out",
                str(member.images / "held-out"),
                "--store",
                str(member.images / "contexts"),
            ]
            running_sites.append(
                stack.enter_context(running(member.site_name, arguments, member.log, environment))
            )
        while [site for site in running_sites if site.is_running()]:
            show()
            time.sleep(_POLL_SECONDS)
        show()


def _enrol(coordinator: Coordinator, client: CoordinatorClient, member: Membership, weights: Path) -> None:
    invitation = client.federations.create_enrolment_token(member.federation, organisation=member.site_name)
    member.state.parent.mkdir(parents=True, exist_ok=True)
    Site.enrol(
        coordinator.url,
        invitation.token,
        name=member.site_name,
        directory=member.state,
        backbone=weights,
    )
