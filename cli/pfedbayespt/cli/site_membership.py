"""How a site joins a federation, looks where it stands, renews its key and leaves."""

from pathlib import Path
from typing import Annotated

import typer

from pfedbayespt.cli.options import AsJson
from pfedbayespt.cli.site_options import Directory, quiet_retries


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
    quiet_retries()
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


def status(directory: Directory, *, as_json: AsJson = False) -> None:
    """Show where this site and its federation stand."""
    quiet_retries()
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


def rotate_key(directory: Directory) -> None:
    """Replace this site's private key. Interrupting is safe: run it again to go on."""
    quiet_retries()
    from pfedbayespt.client import Site

    key_id = Site.resume(directory).rotate_key()
    typer.echo(f"the site signs with {key_id} from now on; the old key is worth nothing any more")


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
    quiet_retries()
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
