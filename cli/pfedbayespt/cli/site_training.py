"""How a site finds out whether it is fit to train, and trains."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfedbayespt.cli.failures import UserError
from pfedbayespt.cli.site_options import (
    AllClasses,
    Backbone,
    Directory,
    HeldOut,
    SkipUnreadable,
    Train,
    quiet_retries,
)

if TYPE_CHECKING:
    from pfedbayespt.client import Site


def check(
    directory: Directory,
    train: Annotated[Path | None, typer.Option(help="Training images, as for `site run`.")] = None,
    held_out: Annotated[Path | None, typer.Option(help="Images to evaluate on.")] = None,
    *,
    skip_unreadable: SkipUnreadable = False,
    require_all_classes: AllClasses = False,
) -> None:
    """Find out whether machine, network, backbone and images are fit. Trains nothing, sends nothing."""
    quiet_retries()
    from rich.console import Console

    from pfedbayespt.client.checks import examine
    from pfedbayespt.client.workplace import ImageOptions

    console = Console(soft_wrap=True)
    unfit = []
    for finding in examine(directory, train, held_out, ImageOptions(skip_unreadable, require_all_classes)):
        mark = "[green]fit  [/green]" if finding.is_fit else "[red]unfit[/red]"
        console.print(mark, end=" ")
        console.print(f"{finding.subject}: {finding.detail}", markup=False, highlight=False)
        if not finding.is_fit:
            unfit.append(finding.subject)
    if unfit:
        raise UserError(f"not fit: {', '.join(unfit)}")


def run(
    directories: Annotated[
        list[Path],
        typer.Argument(
            help="The site's state directory; of several, each is taken up when the one before is complete.",
            metavar="DIRECTORY...",
            file_okay=False,
        ),
    ],
    train: Train,
    *,
    held_out: HeldOut = None,
    backbone: Backbone = None,
    skip_unreadable: SkipUnreadable = False,
    require_all_classes: AllClasses = False,
    cache_gib: Annotated[float, typer.Option(min=0, help="Memory for encoded images, in GiB.")] = 2.0,
    store_gib: Annotated[
        float, typer.Option(min=0, help="Disk for encoded images, in GiB; 0 keeps none there.")
    ] = 20.0,
    store: Annotated[
        Path | None,
        typer.Option(
            help="Folder for encoded images; your sites may share one. Default: in the state directory.",
            file_okay=False,
        ),
    ] = None,
    patience_minutes: Annotated[
        float, typer.Option(min=0, help="How long the coordinator may be out of reach.")
    ] = 10.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log waiting too.")] = False,
) -> None:
    """Take part until the federation is complete. Interrupting is safe: run it again to go on."""
    quiet_retries()
    _log_to_standard_error(verbose=verbose)
    from rich.console import Console

    from pfedbayespt.client import Site
    from pfedbayespt.client.reporters import reporting

    sites = [Site.resume(directory, backbone=backbone) for directory in directories]
    _stop_on_signals(sites)
    for site in sites:
        with reporting(Console(stderr=True)) as observer:
            progress = site.run(
                train,
                held_out,
                on_event=observer,
                skip_unreadable=skip_unreadable,
                require_all_classes=require_all_classes,
                max_cache_bytes=int(cache_gib * 2**30),
                max_store_bytes=int(store_gib * 2**30),
                store_directory=store,
                patience_seconds=patience_minutes * 60,
            )
        typer.echo(
            f"site {site.name} has contributed to {progress.rounds_contributed} rounds of {site.federation}"
        )


def _stop_on_signals(sites: "Sequence[Site]") -> None:
    """Let the first interruption end the work in order; a second one ends it at once, which is safe too."""

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        typer.echo("stopping at the next opportunity; interrupt again to stop at once", err=True)
        for site in sites:
            site.stop()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def _log_to_standard_error(*, verbose: bool) -> None:
    import logging

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    logging.getLogger("pfedbayespt").setLevel(logging.DEBUG if verbose else logging.INFO)
