"""Options that several `pfedbayespt site` commands share."""

from pathlib import Path
from typing import Annotated

import typer

IMAGES = "a folder of class folders, or a .csv file with the columns path and label"

Directory = Annotated[
    Path, typer.Argument(help="The site's state directory, as given to `site enrol`.", file_okay=False)
]
Backbone = Annotated[
    Path | None, typer.Option(help="Where the backbone file is now. Default: where it was.", exists=True)
]
Train = Annotated[
    Path,
    typer.Option(
        help=f"Training images: {IMAGES}.",
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


def quiet_retries() -> None:
    """The site tells about its own troubles; the retry library need not."""
    from stamina import instrumentation

    instrumentation.set_on_retry_hooks([])
