"""Options that several commands share, and the client they describe."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pfedbayespt.client import CoordinatorClient

GIVE_UP_AFTER_SECONDS = 10.0

Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="PFEDBAYESPT_URL", help="The coordinator's address, such as https://host:8000."
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        envvar="PFEDBAYESPT_TOKEN",
        show_envvar=True,
        help="The admin token. Prefer the environment variable: other users of this machine "
        "can see a command's options.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Cache = Annotated[
    str | None,
    typer.Option(
        "--cache",
        envvar="PFEDBAYESPT_CACHE",
        help="Folder for downloaded backbones. Default: pfedbayespt in the user's cache folder.",
    ),
]


def connect(url: str, credential: str | None) -> "CoordinatorClient":
    """Return a client that gives up soon: a person is waiting."""
    from stamina import instrumentation

    from pfedbayespt.client import CoordinatorClient, Timeouts

    instrumentation.set_on_retry_hooks([])  # a command's output is its own; the last error is shown anyway
    return CoordinatorClient(url, credential, timeouts=Timeouts(total_seconds=GIVE_UP_AFTER_SECONDS))
