"""The demo's organisations, each a process of its own that takes its federations one after another.

The rivals of the method are federations too, on the same coordinator and the same terms but one: `shared` gives
every image the same prompt, and a federation of one site is that site training alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pfedbayespt.client import CoordinatorClient, Site
from pfedbayespt.demo.processes import Coordinator, Process, running, threads_per_site


@contextmanager
def running_sites(
    coordinator: Coordinator,
    client: CoordinatorClient,
    folders: Mapping[str, Path],
    federations: Mapping[str, Sequence[str]],
    weights: Path,
) -> Iterator[list[Process]]:
    """Enrol every site in its federations and run all of them side by side until the block ends.

    Args:
        coordinator: where they enrol.
        client: the admin's, to invite them.
        folders: each site's images, and where it keeps its state and log.
        federations: each site's federations, in the order in which it takes part.
        weights: the backbone file.
    """
    environment = {"OMP_NUM_THREADS": str(threads_per_site(len(folders)))}
    with ExitStack() as stack:
        processes = []
        for name, folder in folders.items():
            states = [
                _enrol(coordinator, client, federation, name, folder, weights)
                for federation in federations[name]
            ]
            arguments = ["site", "run", *map(str, states)]
            arguments += ["--train", str(folder / "train"), "--held-out", str(folder / "held-out")]
            arguments += ["--store", str(folder / "contexts")]
            processes.append(stack.enter_context(running(name, arguments, folder / "site.log", environment)))
        yield processes


def _enrol(
    coordinator: Coordinator,
    client: CoordinatorClient,
    federation: str,
    name: str,
    folder: Path,
    weights: Path,
) -> Path:
    """Return the state directory of the site's new membership."""
    invitation = client.federations.create_enrolment_token(federation, organisation=name)
    state = folder / "memberships" / federation
    state.parent.mkdir(parents=True, exist_ok=True)
    Site.enrol(coordinator.url, invitation.token, name=name, directory=state, backbone=weights)
    return state
