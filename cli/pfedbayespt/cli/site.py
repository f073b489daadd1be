"""`pfedbayespt site`: an organisation's part in a federation, beside its images."""

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pfedbayespt.cli.failures import UserError
from pfedbayespt.cli.options import AsJson
from pfedbayespt.cli.predict import Image, ModelVersion, NumSamples, Seed, TopK, show_prediction

if TYPE_CHECKING:
    from pfedbayespt.client import AdaptationReport, Site

_IMAGES = "a folder of class folders, or a .csv file with the columns path and label"
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})

app = typer.Typer(
    help="Join a federation and take part in it with your own images.",
    no_args_is_help=True,
    # Every option is a variable too: PFEDBAYESPT_SITE_RUN_TRAIN. A unit's EnvironmentFile is a configuration file.
    context_settings={"auto_envvar_prefix": "PFEDBAYESPT_SITE"},
)

Directory = Annotated[
    Path, typer.Argument(help="The site's state directory, as given to `site enrol`.", file_okay=False)
]
Backbone = Annotated[
    Path | None, typer.Option(help="Where the backbone file is now. Default: where it was.", exists=True)
]
Train = Annotated[
    Path,
    typer.Option(
        help=f"Training images: {_IMAGES}.",
        exists=True,
    ),
]
HeldOut = Annotated[
    Path | None,
    typer.Option(
        help="The same for images to evaluate on. Default: every tenth training image.", exists=True
    ),
]
SkipUnreadable = Annotated[
    bool,
    typer.Option(
        "--skip-unreadable", help="Leave out files that are no readable images instead of stopping."
    ),
]
AllClasses = Annotated[
    bool, typer.Option("--require-all-classes", help="Stop if a class of the federation has no folder.")
]


@app.command()
def enrol(
    url: Annotated[str, typer.Argument(envvar="PFEDBAYESPT_URL", help="The coordinator's address.")],
    name: Annotated[str, typer.Option(help="What to call this site: lower-case letters, digits, hyphens.")],
    directory: Annotated[Path, typer.Option(help="Where to keep the site's state and private key.")],
    backbone: Annotated[
        Path, typer.Option(help="The federation's backbone, a safetensors file.", exists=True)
    ],
    token: Annotated[
        str,
        typer.Option("--token", envvar="PFEDBAYESPT_TOKEN", help="The one-use token enr_... from the admin."),
    ],
    *,
    coordinator_key: Annotated[
        str | None,
        typer.Option(help="key_..., as the admin told it: refuse to join if another coordinator answers."),
    ] = None,
    proxy: Annotated[str | None, typer.Option(help="Address of an HTTP proxy.")] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="PEM file of certificate authorities to trust.", exists=True)
    ] = None,
) -> None:
    """Join a federation: redeem the token, pin the specification, check the backbone."""
    _quiet_retries()
    from pfedbayespt.client import Site

    site = Site.enrol(
        url,
        token,
        name=name,
        directory=directory,
        backbone=backbone,
        proxy=proxy,
        ca_file=ca_file,
        coordinator_key_id=coordinator_key,
    )
    typer.echo(f"site {site.name} has joined {site.federation}; specification {site.specification_digest}")
    typer.echo(f"classes (folder names): {', '.join(site.specification.classes)}")
    typer.echo(f"next: pfedbayespt site check {directory} --train IMAGES --held-out IMAGES")


@app.command()
def check(
    directory: Directory,
    train: Annotated[Path | None, typer.Option(help="Training images, as for `site run`.")] = None,
    held_out: Annotated[Path | None, typer.Option(help="Images to evaluate on.")] = None,
    *,
    skip_unreadable: SkipUnreadable = False,
    require_all_classes: AllClasses = False,
) -> None:
    """Find out whether machine, network, backbone and images are fit. Trains nothing, sends nothing."""
    _quiet_retries()
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


@app.command()
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
    _quiet_retries()
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


@app.command()
def status(directory: Directory, *, as_json: AsJson = False) -> None:
    """Show where this site and its federation stand."""
    _quiet_retries()
    from pfedbayespt.cli.output import print_json
    from pfedbayespt.client import Site

    site = Site.resume(directory)
    now = site.status()
    if as_json:
        parts = {"site": now.site, "federation": now.federation, "progress": now.progress}
        print_json({name: part.model_dump(mode="json") for name, part in parts.items()})
        return
    federation, planned = now.federation, now.federation.specification.rounds.num_rounds
    serving = "none yet" if federation.serving_version is None else f"version {federation.serving_version}"
    typer.echo(f"site        {now.site.site_name} ({now.site.site_id}), {now.site.status}")
    typer.echo(f"federation  {federation.name}, {federation.status}")
    typer.echo(
        f"rounds      {federation.rounds_published} published, {planned or 'no number'} of training planned"
    )
    typer.echo(f"here        {now.progress.rounds_contributed} rounds contributed")
    typer.echo(f"serving     {serving}")
    if now.has_pending_update:
        typer.echo("an update waits to be submitted: run the site")


@app.command()
def predict(
    directory: Directory,
    image: Image,
    *,
    num_samples: NumSamples = 16,
    top_k: TopK = 5,
    seed: Seed = None,
    model_version: ModelVersion = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the coordinator; use the version that served last.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Classify an image here, with this site's personal parameters. The image stays on this machine."""
    _quiet_retries()
    from pfedbayespt.client import Site

    predictor = Site.resume(directory).predictor(model_version=model_version, offline=offline)
    prediction = predictor.predict(image, num_samples=num_samples, top_k=top_k, seed=seed)
    show_prediction(prediction, as_json=as_json)


@app.command()
def serve(
    directory: Directory,
    *,
    backbone: Backbone = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8100,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="PFEDBAYESPT_SERVE_TOKEN",
            help="Bearer token that callers must send. Needed if others than this machine can reach the address.",
        ),
    ] = None,
    refresh_seconds: Annotated[
        float, typer.Option(min=0.1, help="How often to look for a newly published version.")
    ] = 30.0,
    offline: Annotated[
        bool, typer.Option("--offline", help="Never ask the coordinator; use the version that served last.")
    ] = False,
) -> None:
    """Answer predictions over HTTP beside your own data, with this site's personal parameters.

    The same server as the coordinator's: POST /v1/federations/NAME/predictions. A version that is published later
    is swapped in without a pause.
    """
    if host not in _LOOPBACK_HOSTS and not token:
        raise UserError(f"others can reach {host}, so callers need a token: set PFEDBAYESPT_SERVE_TOKEN")
    _quiet_retries()
    from pfedbayespt.cli.site_server import SiteInference, create_site_app, listen, refreshing
    from pfedbayespt.client import Site

    site = Site.resume(directory, backbone=backbone)
    inference = SiteInference(site, offline=offline)
    inference.refresh()
    typer.echo(
        f"answering for {site.federation} at http://{host}:{port}/v1/federations/{site.federation}/predictions"
    )
    with refreshing(inference, refresh_seconds):
        listen(create_site_app(inference, token), host, port)


@app.command()
def evaluate(
    directory: Directory,
    images: Annotated[
        Path,
        typer.Argument(help=f"Labelled images: {_IMAGES}.", exists=True),
    ],
    *,
    model_version: ModelVersion = None,
    skip_unreadable: SkipUnreadable = False,
    as_json: AsJson = False,
) -> None:
    """Try a version on your own labelled images. Nothing is reported to anyone."""
    _quiet_retries()
    from pfedbayespt.cli.output import show
    from pfedbayespt.client import Site

    site = Site.resume(directory)
    show(site.evaluate(images, model_version=model_version, skip_unreadable=skip_unreadable), as_json=as_json)


@app.command()
def adapt(
    directory: Directory,
    images: Annotated[Path, typer.Argument(help="Labelled images to learn from.", exists=True)],
    *,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="Others, to compare on. Default: the images that are not learnt from.", exists=True
        ),
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(min=1, help="How many of each class to learn from. Default: 5; all with --held-out."),
    ] = None,
    head: Annotated[
        Literal["residual", "head"],
        typer.Option(help="`residual` stays near the federation's head, `head` becomes your own."),
    ] = "residual",
    model_version: ModelVersion = None,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the images.")] = 0,
    insist: Annotated[
        bool, typer.Option("--insist", help="Keep the head even if it does not help on the held-out images.")
    ] = False,
    skip_unreadable: SkipUnreadable = False,
    as_json: AsJson = False,
) -> None:
    """Personalise predictions from a few labelled images. Everything stays on this machine.

    The classification head alone is tuned. It is kept if the images that it did not learn from become more likely.
    """
    _quiet_retries()
    from pfedbayespt.client import Site

    report = Site.resume(directory).adapt(
        images,
        held_out,
        shots=shots,
        kind=head,
        model_version=model_version,
        seed=seed,
        insist=insist,
        skip_unreadable=skip_unreadable,
    )
    _show_adaptation(report, as_json=as_json)


@app.command()
def rotate_key(directory: Directory) -> None:
    """Replace this site's private key. Interrupting is safe: run it again to go on."""
    _quiet_retries()
    from pfedbayespt.client import Site

    key_id = Site.resume(directory).rotate_key()
    typer.echo(f"the site signs with {key_id} from now on; the old key is worth nothing any more")


@app.command()
def leave(
    directory: Directory,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    local_only: Annotated[
        bool,
        typer.Option("--local-only", help="Do not tell the coordinator, for instance because it is gone."),
    ] = False,
) -> None:
    """Leave the federation for good; remove its private key, personal parameters, encoded images and downloads."""
    _quiet_retries()
    from pfedbayespt.client.departure import leave as leave_for_good
    from pfedbayespt.client.enrolment import Access, identity_in
    from pfedbayespt.client.state import StateDirectory

    state = StateDirectory.open(directory)
    enrolment = state.enrolment
    if not yes:
        typer.confirm(f"leave {enrolment.federation} for good, and remove {directory}?", abort=True)
    if local_only:
        state.remove()
        typer.echo(f"removed. Ask the admin of {enrolment.federation} to revoke {enrolment.site_id}.")
        return
    access = Access(enrolment.proxy, enrolment.ca_file)
    identity = identity_in(state)
    with access.client(enrolment.base_url, identity) as client:
        leave_for_good(state, client, identity.key)
    typer.echo(f"site {enrolment.site_name} has left {enrolment.federation}; {directory} is removed")


def _show_adaptation(report: "AdaptationReport", *, as_json: bool) -> None:
    from dataclasses import asdict

    from pfedbayespt.cli.output import print_json

    before, after = report.before.metrics, report.after.metrics
    if as_json:
        print_json({**asdict(report), "before": before, "after": after})
        return
    typer.echo(
        f"version {report.model_version}, {report.kind} tuned on {report.num_tuned_on} images, "
        f"compared on {report.before.num_examples}"
    )
    for name in before:
        typer.echo(f"{name:10} {before[name]:8.4f} before {after[name]:8.4f} after")
    typer.echo(
        "kept: used for predictions here from now on" if report.is_kept else "not kept: it does not help"
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


def _quiet_retries() -> None:
    """The site tells about its own troubles; the retry library need not."""
    from stamina import instrumentation

    instrumentation.set_on_retry_hooks([])
