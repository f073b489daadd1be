"""The table of contents of the command line."""

from typing import Annotated

import typer

from pfedbayespt.cli import admin, backbone, coordinator, site
from pfedbayespt.cli.auditing import rebuild, verify
from pfedbayespt.cli.demo import demo
from pfedbayespt.cli.failures import ExplainingGroup
from pfedbayespt.cli.predict import predict
from pfedbayespt.cli.simulate import simulate

app = typer.Typer(
    name="pfedbayespt",
    cls=ExplainingGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Train one vision model across organisations that may not pool their images.",
    epilog="First steps: `coordinator init`, `coordinator run`, `backbone import`, `admin create-federation`, "
    "`admin invite`; then at each organisation `site enrol`, `site check`, `site run`.",
)
app.add_typer(coordinator.app, name="coordinator")
app.add_typer(admin.app, name="admin")
app.add_typer(site.app, name="site")
app.add_typer(backbone.app, name="backbone")
app.command()(predict)
app.command()(verify)
app.command()(rebuild)
app.command()(demo)
app.command()(simulate)


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            is_eager=True,
            callback=lambda value: _show_version(wanted=value),
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Hold the options of the program itself."""


def _show_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("pfedbayespt"))
        raise typer.Exit


if __name__ == "__main__":
    app()
