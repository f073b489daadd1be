"""What a site does with the versions it has: predict, serve, evaluate, personalise."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pfedbayespt.cli.failures import UserError
from pfedbayespt.cli.options import AsJson
from pfedbayespt.cli.predict import Image, ModelVersion, NumSamples, Seed, TopK, show_prediction
from pfedbayespt.cli.site_options import IMAGES, Backbone, Directory, SkipUnreadable, quiet_retries

if TYPE_CHECKING:
    from pfedbayespt.client import AdaptationReport

_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


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
    quiet_retries()
    from pfedbayespt.client import Site

    predictor = Site.resume(directory).predictor(model_version=model_version, offline=offline)
    prediction = predictor.predict(image, num_samples=num_samples, top_k=top_k, seed=seed)
    show_prediction(prediction, as_json=as_json)


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
    quiet_retries()
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


def evaluate(
    directory: Directory,
    images: Annotated[
        Path,
        typer.Argument(help=f"Labelled images: {IMAGES}.", exists=True),
    ],
    *,
    model_version: ModelVersion = None,
    skip_unreadable: SkipUnreadable = False,
    as_json: AsJson = False,
) -> None:
    """Try a version on your own labelled images. Nothing is reported to anyone."""
    quiet_retries()
    from pfedbayespt.cli.output import show
    from pfedbayespt.client import Site

    site = Site.resume(directory)
    show(site.evaluate(images, model_version=model_version, skip_unreadable=skip_unreadable), as_json=as_json)


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
    quiet_retries()
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
