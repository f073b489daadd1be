"""`pfedbayespt admin`: what a federation's admin does and sees."""

from collections import deque
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer

from pfedbayespt.cli.options import AsJson, Token, Url, connect

app = typer.Typer(
    help="Run federations: found them, invite sites, watch and steer rounds.", no_args_is_help=True
)

Federation = Annotated[str, typer.Argument(help="The federation's name.")]
RoundId = Annotated[str, typer.Argument(help="The round's id, rnd_..., as `admin rounds` shows it.")]
SiteId = Annotated[str, typer.Argument(help="The site's id, sit_..., as `admin sites` shows it.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="How many to show.")]


@app.command()
def create_federation(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and hyphens.")],
    spec: Annotated[Path, typer.Option(help="The specification, TOML or JSON; see examples/.", exists=True)],
    backbone: Annotated[Path, typer.Option(help="The backbone's weights, a safetensors file.", exists=True)],
    url: Url,
    token: Token,
    *,
    draft: Annotated[bool, typer.Option("--draft", help="Do not activate it yet.")] = False,
    as_json: AsJson = False,
) -> None:
    """Found a federation: create it, give it initial parameters, activate it.

    A backbone digest that the specification leaves out is taken from the backbone file.

    Running the command again after a failure goes on where it stopped.
    """
    from pfedbayespt.cli.founding import found, read_specification
    from pfedbayespt.cli.output import show

    specification = read_specification(spec, backbone)
    with connect(url, token) as client:
        federation = found(client, name, specification, backbone, activate=not draft)
    show(federation, as_json=as_json, leave_out=["specification"])


@app.command()
def initial_parameters(
    federation: Federation,
    backbone: Annotated[Path, typer.Option(help="The backbone's weights, a safetensors file.", exists=True)],
    out: Annotated[Path, typer.Option(help="File to write.", dir_okay=False)],
    url: Url,
    token: Token,
) -> None:
    """Write version 0 of a draft that was created elsewhere, such as in the dashboard; put it there."""
    from pfedbayespt.cli.founding import check_backbone, initial_parameters_file

    with connect(url, token) as client:
        specification = client.federations.get(federation).specification
    check_backbone(specification, backbone, f"federation {federation}")
    out.write_bytes(initial_parameters_file(federation, specification, backbone))
    typer.echo(f"{out}: {out.stat().st_size} bytes; put it as the initial parameters of {federation}")


@app.command()
def invite(
    federation: Federation,
    organisation: Annotated[str, typer.Option(help="Who may join: lower-case letters, digits and hyphens.")],
    url: Url,
    token: Token,
    *,
    valid_hours: Annotated[
        float, typer.Option(min=1 / 60, max=72, help="How long the token may be used.")
    ] = 24,
    as_json: AsJson = False,
) -> None:
    """Make a token that lets one site join once. It is shown this once: hand it over on a safe way."""
    from pfedbayespt.cli.output import show

    with connect(url, token) as client:
        invitation = client.federations.create_enrolment_token(
            federation, organisation, round(valid_hours * 3600)
        )
    show(invitation, as_json=as_json)
    if not as_json:
        command = (
            f"pfedbayespt site enrol {url} --name {organisation} --directory site-state --backbone FILE "
            f"--coordinator-key {invitation.coordinator_key_id}"
        )
        typer.echo(f"\nThe organisation runs, with PFEDBAYESPT_TOKEN set to the token:\n  {command}")


@app.command()
def create_api_key(
    federation: Federation,
    organisation: Annotated[
        str, typer.Option(help="On whose behalf: lower-case letters, digits and hyphens.")
    ],
    name: Annotated[str, typer.Option(help="What it is for: lower-case letters, digits and hyphens.")],
    url: Url,
    token: Token,
    *,
    role: Annotated[
        Literal["predictor", "auditor", "org_admin", "federation_lead"],
        typer.Option(help="What its holder may do."),
    ] = "predictor",
    as_json: AsJson = False,
) -> None:
    """Make an API key for a program or a person that is no site. It is shown this once."""
    from pfedbayespt.cli.output import show
    from pfedbayespt.protocol import ApiKeyRole

    with connect(url, token) as client:
        made = client.federations.create_api_key(federation, organisation, name, ApiKeyRole(role))
    show(made, as_json=as_json)


@app.command()
def api_keys(federation: Federation, url: Url, token: Token, *, as_json: AsJson = False) -> None:
    """List a federation's API keys, oldest first, without their secrets."""
    from pfedbayespt.cli.output import show_all

    columns = {
        "id": lambda item: item.api_key_id,
        "name": lambda item: item.name,
        "organisation": lambda item: item.organisation,
        "role": lambda item: item.role,
        "created": lambda item: item.created_at,
        "revoked": lambda item: item.revoked_at,
    }
    with connect(url, token) as client:
        show_all(client.federations.list_api_keys(federation), columns, as_json=as_json)


@app.command()
def revoke_api_key(
    api_key_id: Annotated[str, typer.Argument(help="The key's id, api_..., as `admin api-keys` shows it.")],
    url: Url,
    token: Token,
) -> None:
    """Make an API key worth nothing, for good."""
    with connect(url, token) as client:
        typer.echo(f"{client.federations.revoke_api_key(api_key_id).api_key_id} is revoked")


@app.command()
def federations(url: Url, token: Token, *, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List federations, oldest first."""
    from pfedbayespt.cli.output import short, show_all

    columns = {
        "name": lambda item: item.name,
        "status": lambda item: item.status,
        "serves": lambda item: item.serving_version,
        "rounds": lambda item: item.rounds_published,
        "of": lambda item: item.specification.rounds.num_rounds,
        "specification": lambda item: short(item.specification_digest),
        "created": lambda item: item.created_at,
    }
    with connect(url, token) as client:
        show_all(islice(client.federations.list(), limit), columns, as_json=as_json)


@app.command()
def organisations(federation: Federation, url: Url, token: Token, *, as_json: AsJson = False) -> None:
    """List who takes part in a federation."""
    from pfedbayespt.cli.output import show_all

    columns = {
        "name": lambda item: item.name,
        "known since": lambda item: item.created_at,
    }
    with connect(url, token) as client:
        show_all(client.organisations.of_federation(federation), columns, as_json=as_json)


@app.command()
def sites(federation: Federation, url: Url, token: Token, *, as_json: AsJson = False) -> None:
    """List a federation's sites, oldest first."""
    from pfedbayespt.cli.output import show_all

    columns = {
        "id": lambda item: item.site_id,
        "name": lambda item: item.site_name,
        "organisation": lambda item: item.organisation,
        "status": lambda item: item.status,
        "enrolled": lambda item: item.enrolled_at,
        "last seen": lambda item: item.last_seen_at,
    }
    with connect(url, token) as client:
        show_all(client.sites.list(federation), columns, as_json=as_json)


@app.command()
def rounds(
    federation: Federation, url: Url, token: Token, *, limit: Limit = 20, as_json: AsJson = False
) -> None:
    """List a federation's rounds, newest first."""
    from pfedbayespt.cli.output import show_all

    columns = {
        "id": lambda item: item.round_id,
        "number": lambda item: item.round_number,
        "task": lambda item: item.task,
        "status": lambda item: item.status,
        "updates": lambda item: f"{item.updates_accepted}/{len(item.cohort)}",
        "refused": lambda item: item.updates_quarantined,
        "base": lambda item: item.base_version,
        "result": lambda item: item.result_version,
        "deadline": lambda item: item.deadline_at,
        "reason": lambda item: item.abandoned_reason,
    }
    with connect(url, token) as client:
        show_all(islice(client.rounds.list(federation), limit), columns, as_json=as_json)


@app.command("round")
def one_round(round_id: RoundId, url: Url, token: Token, *, as_json: AsJson = False) -> None:
    """Show one round."""
    from pfedbayespt.cli.output import show

    with connect(url, token) as client:
        show(client.rounds.get(round_id), as_json=as_json)


@app.command()
def updates(round_id: RoundId, url: Url, token: Token, *, as_json: AsJson = False) -> None:
    """List the updates of a round."""
    from pfedbayespt.cli.output import short, show_all

    columns = {
        "id": lambda item: item.update_id,
        "site": lambda item: item.site_id,
        "status": lambda item: item.status,
        "images": lambda item: item.manifest.num_examples,
        "weight": lambda item: item.weight,
        "norm": lambda item: item.delta_norm,
        "loss": lambda item: item.manifest.metrics.get("loss"),
        "digest": lambda item: short(item.digest),
        "verdict": lambda item: item.verdict,
    }
    with connect(url, token) as client:
        show_all(client.updates.list(round_id), columns, as_json=as_json)


@app.command()
def versions(
    federation: Federation, url: Url, token: Token, *, limit: Limit = 20, as_json: AsJson = False
) -> None:
    """List a federation's model versions, newest first, with each site's accuracy."""
    from pfedbayespt.cli.output import short, show_all

    columns = {
        "number": lambda item: item.version_number,
        "status": lambda item: item.status,
        "parent": lambda item: item.parent_version,
        "updates": lambda item: len(item.inputs),
        "accuracy": lambda item: {
            report.site_name: report.evaluation.metrics.get("accuracy") for report in item.evaluations
        },
        "size": lambda item: f"{item.size_bytes / 1e6:.2f} MB",
        "digest": lambda item: short(item.digest),
        "created": lambda item: item.created_at,
    }
    with connect(url, token) as client:
        show_all(islice(client.model_versions.list(federation), limit), columns, as_json=as_json)


@app.command()
def version(
    federation: Federation,
    number: Annotated[int, typer.Argument(help="The version's number.")],
    url: Url,
    token: Token,
    *,
    as_json: AsJson = False,
) -> None:
    """Show one model version: what went into it, and how it does at each site."""
    from pfedbayespt.cli.output import show

    with connect(url, token) as client:
        show(client.model_versions.get(federation, number), as_json=as_json)


@app.command()
def events(
    federation: Federation, url: Url, token: Token, *, limit: Limit = 50, as_json: AsJson = False
) -> None:
    """List the latest state changes of a federation, oldest first."""
    from pfedbayespt.cli.output import show_all

    columns = {
        "number": lambda item: item.event_id,
        "when": lambda item: item.occurred_at,
        "who": lambda item: item.actor,
        "what": lambda item: item.action,
        "of": lambda item: item.subject,
        "details": lambda item: item.details,
    }
    with connect(url, token) as client:
        show_all(deque(client.events(federation), maxlen=limit), columns, as_json=as_json)


@app.command()
def export(
    federation: Federation,
    out: Annotated[Path, typer.Option(help="Folder to write: a new one, or an empty one.", file_okay=False)],
    url: Url,
    token: Token,
    *,
    files: Annotated[
        bool, typer.Option("--files", help="With the files of versions and updates: `rebuild` needs them.")
    ] = False,
) -> None:
    """Write down everything an auditor needs: events, signed receipts and manifests. See `pfedbayespt verify`."""
    from pfedbayespt.cli.audit.export import write_export

    with connect(url, token) as client:
        write_export(client, federation, out, with_files=files)
    typer.echo(f"wrote {out}; next: pfedbayespt verify {out}")


@app.command()
def promote(
    federation: Federation,
    number: Annotated[int, typer.Argument(help="The version's number.")],
    url: Url,
    token: Token,
) -> None:
    """Let a retired or held version answer predictions: a rollback, or the release of a held one."""
    with connect(url, token) as client:
        promoted = client.model_versions.promote(federation, number)
    typer.echo(f"version {promoted.version_number} of {federation} is now {promoted.status}")


@app.command()
def start_round(federation: Federation, url: Url, token: Token) -> None:
    """Start a round now."""
    with connect(url, token) as client:
        begun = client.rounds.start(federation)
    typer.echo(
        f"round {begun.round_number} ({begun.round_id}) is {begun.status}, {len(begun.cohort)} sites asked"
    )


@app.command()
def close(round_id: RoundId, url: Url, token: Token) -> None:
    """End a round early and aggregate the updates that are there, if they are enough."""
    with connect(url, token) as client:
        typer.echo(f"round {round_id} is now {client.rounds.close(round_id).status}")


@app.command()
def abandon(round_id: RoundId, url: Url, token: Token) -> None:
    """End a round without a result."""
    with connect(url, token) as client:
        typer.echo(f"round {round_id} is now {client.rounds.abandon(round_id).status}")


@app.command()
def activate(federation: Federation, url: Url, token: Token) -> None:
    """Let the rounds of a draft begin."""
    with connect(url, token) as client:
        typer.echo(f"{federation} is now {client.federations.activate(federation).status}")


@app.command()
def pause(federation: Federation, url: Url, token: Token) -> None:
    """Start no more rounds for now."""
    with connect(url, token) as client:
        typer.echo(f"{federation} is now {client.federations.pause(federation).status}")


@app.command()
def resume(federation: Federation, url: Url, token: Token) -> None:
    """Go on after a pause."""
    with connect(url, token) as client:
        typer.echo(f"{federation} is now {client.federations.resume(federation).status}")


@app.command()
def archive(federation: Federation, url: Url, token: Token) -> None:
    """End a federation for good: no more rounds; its versions stay."""
    with connect(url, token) as client:
        typer.echo(f"{federation} is now {client.federations.archive(federation).status}")


@app.command()
def suspend(site_id: SiteId, url: Url, token: Token) -> None:
    """Ask nothing of a site, and take nothing from it, until it is reinstated."""
    with connect(url, token) as client:
        typer.echo(f"{site_id} is now {client.sites.suspend(site_id).status}")


@app.command()
def reinstate(site_id: SiteId, url: Url, token: Token) -> None:
    """End a site's suspension."""
    with connect(url, token) as client:
        typer.echo(f"{site_id} is now {client.sites.reinstate(site_id).status}")


@app.command()
def revoke(site_id: SiteId, url: Url, token: Token) -> None:
    """Make a site's keys worthless, for good."""
    with connect(url, token) as client:
        typer.echo(f"{site_id} is now {client.sites.revoke(site_id).status}")
