"""The demo from beginning to end: lay out, found, run, ask, report."""

import json
import platform
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import timm
import torch
from rich.console import Console
from stamina import instrumentation

from pfedbayespt.cli.founding import found
from pfedbayespt.client import CoordinatorClient
from pfedbayespt.demo import screen
from pfedbayespt.demo.facts import Answers, Curves, Facts
from pfedbayespt.demo.gather import ask, curves_of, versions_in_order
from pfedbayespt.demo.memberships import running_sites
from pfedbayespt.demo.processes import Coordinator, Process, running_coordinator
from pfedbayespt.demo.report import render, results, standings
from pfedbayespt.demo.scenario import (
    FULL,
    QUICK,
    SITES,
    UNSEEN_DOMAIN,
    Scale,
    class_names,
    held_out_drawings,
    lay_out_sites,
    specification,
    unseen_drawings,
)
from pfedbayespt.protocol import digest_of_bytes

METHOD, SHARED_PROMPT, ALONE = "ideograms", "ideograms-shared-prompt", "alone-"
"""Names of the federations: the method, its rival with one prompt for all, and one per site on its own."""

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Options:
    """What the person at the keyboard chooses; `port` 0 means any free one."""

    weights: Path
    sample: Path
    output: Path
    quick: bool = False
    keep: bool = False
    port: int = 0
    seed: int = 0

    @property
    def scale(self) -> Scale:
        """How much to do."""
        return QUICK if self.quick else FULL


def run(options: Options, console: Console | None = None) -> Path:
    """Run the whole demo and return the report's path.

    Raises:
        FileNotFoundError: the sample or the backbone is missing.
        ProcessFailedError: the coordinator or a site ended with an error.
    """
    console = console or Console()
    instrumentation.set_on_retry_hooks([])  # waiting for the coordinator to start is no news
    signal.signal(signal.SIGTERM, _end)  # so that the processes started here end too
    began = time.monotonic()
    shutil.rmtree(options.output, ignore_errors=True)
    options.output.mkdir(parents=True)
    folders = lay_out_sites(options.sample, options.output / "sites", options.scale, options.seed)
    with (
        running_coordinator(options.output, options.weights.parent, options.port) as coordinator,
        CoordinatorClient(coordinator.url, coordinator.admin_token) as client,
    ):
        console.print(f"coordinator ready at {coordinator.url}, its documentation at {coordinator.url}/docs")
        _run_federations(options, coordinator, client, folders, console)
        facts = _gather(options, coordinator.url, client, folders, seconds=time.monotonic() - began)
        report = options.output / "report.html"
        report.write_text(render(facts), encoding="utf-8")
        (options.output / "results.json").write_text(json.dumps(results(facts), indent=2), encoding="utf-8")
        _summarise(console, facts, coordinator, report, seconds=time.monotonic() - began)
        if options.keep:
            _stay(console, coordinator)
        else:
            console.print("both stop with this demo; `make demo KEEP=1` leaves them up")
    return report


def _end(_signal: int, _frame: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _run_federations(
    options: Options,
    coordinator: Coordinator,
    client: CoordinatorClient,
    folders: Mapping[str, Path],
    console: Console,
) -> None:
    """Run the method and its rivals one after the other, all on the same terms but one."""
    terms = partial(
        specification,
        class_names(options.sample),
        digest_of_bytes(options.weights.read_bytes()),
        options.scale,
    )
    found_here = partial(found, client, backbone=options.weights, activate=True)
    found_here(METHOD, terms())
    found_here(SHARED_PROMPT, terms(family="shared"))
    for site_name in folders:
        found_here(ALONE + site_name, terms(num_sites=1))
    with running_sites(
        coordinator,
        client,
        folders,
        {name: (METHOD, SHARED_PROMPT, ALONE + name) for name in folders},
        options.weights,
    ) as sites:
        for title, federations in (
            ("together: pFedBayesPT", [METHOD]),
            ("together: one shared prompt", [SHARED_PROMPT]),
            ("each site alone", [ALONE + name for name in folders]),
        ):
            console.rule(title)
            _watch(console, client, federations, sites, options.scale.num_rounds)
        while [site for site in sites if site.is_running()]:
            time.sleep(_POLL_SECONDS)


def _watch(
    console: Console,
    client: CoordinatorClient,
    federations: Sequence[str],
    sites: Sequence[Process],
    num_rounds: int,
) -> None:
    """Show the federations' progress until all of them are complete.

    Raises:
        ProcessFailedError: a site ended with an error.
    """
    with screen.live(console) as display:
        is_complete = False
        while not is_complete:
            time.sleep(_POLL_SECONDS)
            for site in sites:
                site.is_running()
            seen = [screen.look(client, name, num_rounds) for name in federations]
            display.update(screen.progress_table(seen))
            is_complete = all(one.is_complete for one in seen)


def _gather(
    options: Options, url: str, client: CoordinatorClient, folders: Mapping[str, Path], seconds: float
) -> Facts:
    known = chain(*(ask(client, METHOD, held_out_drawings(path), name) for name, path in folders.items()))
    unseen = ask(client, METHOD, unseen_drawings(options.sample, options.scale), UNSEEN_DOMAIN)
    return Facts(
        classes=class_names(options.sample),
        mixtures={plan.name: plan.mixture for plan in SITES},
        num_images={name: _num_images(path) for name, path in folders.items()},
        accuracy=_curves(client, folders, "accuracy"),
        nll=_curves(client, folders, "nll"),
        known=Answers(tuple(known)),
        unseen=Answers(tuple(unseen)),
        versions=versions_in_order(client, METHOD),
        site_names={site.site_id: site.site_name for site in client.sites.list(METHOD)},
        setting={
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {platform.platform()}",
            "software": f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}",
            "command": "pfedbayespt demo" + (" --quick" if options.quick else ""),
            "seed": str(options.seed),
            "training took": f"{seconds:.0f} s, the rivals included",
        },
        pages=_pages(url),
    )


def _pages(url: str) -> dict[str, str]:
    return {
        "the federation in the dashboard": f"{url}/ui/federations/{METHOD}",
        "its versions and their lineage": f"{url}/ui/federations/{METHOD}/versions",
        "try it on an image of yours": f"{url}/ui/federations/{METHOD}/try",
        "the API": f"{url}/docs",
    }


def _curves(client: CoordinatorClient, folders: Mapping[str, Path], metric: str) -> Curves:
    return {
        "pFedBayesPT": curves_of(client, METHOD, metric),
        "shared prompt": curves_of(client, SHARED_PROMPT, metric),
        "alone": {name: curves_of(client, ALONE + name, metric)[name] for name in folders},
    }


def _num_images(folder: Path) -> tuple[int, int]:
    """Return how many images a site trains on and holds out."""
    return len(list(folder.glob("train/*/*"))), len(list(folder.glob("held-out/*/*")))


def _summarise(
    console: Console, facts: Facts, coordinator: Coordinator, report: Path, seconds: float
) -> None:
    console.rule("two images, two answers")
    screen.show_answer(console, "from a site's own mixture", facts.known.rows[0])
    screen.show_answer(console, "from a domain that no site has", facts.unseen.rows[0])
    console.rule("what came of it")
    screen.show_standings(console, standings(facts.accuracy))
    console.print(f"took {seconds:.0f} s; report: [link=file://{report.resolve()}]{report}[/link]")
    console.print(f"dashboard: {coordinator.url}/ui")
    console.print(f"documentation: {coordinator.url}/docs")


def _stay(console: Console, coordinator: Coordinator) -> None:
    """Wait until the person ends the demo."""
    console.print(f"admin token, for /ui and for Authorize in /docs: {coordinator.admin_token}")
    console.print("still running; end it with Ctrl-C")
    try:
        signal.pause()
    except KeyboardInterrupt:
        console.print("stopping")
