"""`pfedbayespt coordinator`: running the server, and looking after what it keeps."""

import json
import os
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pfedbayespt.cli.failures import UserError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from pfedbayespt.protocol import SigningKey
    from pfedbayespt.server.settings import Settings

app = typer.Typer(
    help="Run the coordinator: rounds, updates, model versions, predictions.", no_args_is_help=True
)

_SETTINGS_FILE = "coordinator.env"
_KEY_FILE = "coordinator-key.pem"

SettingsFile = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        help="File of PFEDBAYESPT_<NAME>=value lines, as `coordinator init` writes it. Environment variables win.",
        exists=True,
        dir_okay=False,
    ),
]


@app.command()
def init(
    directory: Annotated[
        Path, typer.Argument(help="Where the coordinator will keep its data.", file_okay=False)
    ],
) -> None:
    """Write a settings file with a fresh admin token, and the coordinator's key, readable by you alone."""
    directory.mkdir(parents=True, exist_ok=True)
    file, key_file = directory / _SETTINGS_FILE, (directory / _KEY_FILE).resolve()
    lines = {
        "PFEDBAYESPT_ADMIN_TOKEN": secrets.token_urlsafe(32),
        "PFEDBAYESPT_DATA_DIR": str((directory / "data").resolve()),
        "PFEDBAYESPT_SIGNING_KEY_FILE": str(key_file),
        "PFEDBAYESPT_ROLES": json.dumps(_possible_roles()),
    }
    _write_new(file, "".join(f"{name}={value}\n" for name, value in lines.items()))
    key = _make_key(key_file)
    typer.echo(f"wrote {file}; it holds the admin token, so keep it to yourself.")
    typer.echo(f"wrote {key_file}; receipts and model versions are signed with it, so back it up.")
    typer.echo(f"its id, for sites to check whom they join: {key.key_id}. Next:")
    typer.echo(f"  pfedbayespt coordinator run --settings {file}")
    typer.echo("and, wherever you administer it from:")
    typer.echo(f"  export PFEDBAYESPT_TOKEN=$(sed -n 's/^PFEDBAYESPT_ADMIN_TOKEN=//p' {file})")
    typer.echo("  export PFEDBAYESPT_URL=http://127.0.0.1:8000")


@app.command()
def run(
    *,
    settings_file: SettingsFile = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on. Default: 8000.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where to keep data.", file_okay=False)] = None,
) -> None:
    """Run the coordinator until it is interrupted.

    Every setting is an environment variable PFEDBAYESPT_<NAME> or a line of the settings file.

    PFEDBAYESPT_ADMIN_TOKEN is the only one that must be there.

    PFEDBAYESPT_ROLES='["coordinator", "inference"]' answers predictions too.
    """
    chosen = {"host": host, "port": port, "data_dir": data_dir}
    settings = read_settings(
        settings_file, {name: value for name, value in chosen.items() if value is not None}
    )
    from pfedbayespt.server import serving

    serving.run(settings)


@app.command()
def upgrade_database(*, settings_file: SettingsFile = None) -> None:
    """Bring the database to this release's schema. On SQLite the coordinator does it itself when it starts."""
    settings = read_settings(settings_file, {})
    from pfedbayespt.server import serving

    serving.upgrade_database(settings)


@app.command()
def backup(
    folder: Annotated[
        Path,
        typer.Argument(help="Where the backup is kept; a later one only adds what is new.", file_okay=False),
    ],
    *,
    settings_file: SettingsFile = None,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Leave out the coordinator's signing key, kept elsewhere.")
    ] = False,
) -> None:
    """Copy the database and every tensor file that it needs, while the coordinator runs.

    PostgreSQL needs its client programs (pg_dump). Exits with 1 if the coordinator itself has lost a file.
    """
    from pfedbayespt.server import operations

    report = operations.backup(read_settings(settings_file, {}), folder, with_key=not without_key)
    _report(f"{folder}: {len(report.manifest.blobs)} files, {report.copied} of them new", report.problems)


@app.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A backup.", exists=True, file_okay=False)],
    *,
    settings_file: SettingsFile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a database that is not empty.")] = False,
) -> None:
    """Put a backup back, into an empty place, while no coordinator runs there."""
    from pfedbayespt.server import operations

    manifest = operations.restore(read_settings(settings_file, {}), folder, force=force)
    typer.echo(
        f"restored {len(manifest.blobs)} files and the database of {manifest.created_at:%Y-%m-%d %H:%M:%SZ}"
    )


@app.command()
def verify(
    *,
    settings_file: SettingsFile = None,
    backup_folder: Annotated[
        Path | None,
        typer.Option("--backup", help="Verify this backup instead.", exists=True, file_okay=False),
    ] = None,
) -> None:
    """Hash every tensor file that is needed, follow every audit chain; exit with 1 if anything does not hold."""
    from pfedbayespt.server import operations

    if backup_folder is None:
        report = operations.verify(read_settings(settings_file, {}))
    else:
        report = operations.verify_backup(backup_folder)
    _report(f"verified {report.blobs} files and {report.federations} audit chains", report.problems)


@app.command()
def gc(*, settings_file: SettingsFile = None) -> None:
    """Remove files that no row names and that are old enough, at once rather than at the next sweep."""
    from pfedbayespt.server import operations

    typer.echo(f"removed {operations.collect_garbage(read_settings(settings_file, {}))} files")


def _report(summary: str, problems: tuple[str, ...]) -> None:
    for problem in problems:
        typer.secho(f"does not hold: {problem}", fg="red", err=True)
    typer.echo(summary)
    if problems:
        raise typer.Exit(1)


def _make_key(file: Path) -> "SigningKey":
    from pfedbayespt.protocol import SigningKey

    if file.exists():  # of an earlier `init` whose settings file was removed; sites have pinned it
        return SigningKey.from_pem(file.read_bytes())
    key = SigningKey.generate()
    _write_new(file, key.to_pem().decode())
    return key


def _possible_roles() -> list[str]:
    """Return what this machine can do: without torch it cannot answer predictions."""
    return ["coordinator", "inference"] if find_spec("torch") else ["coordinator"]


def read_settings(file: Path | None, chosen: dict[str, Any]) -> "Settings":
    """Return the server's settings: options before environment before file.

    Raises:
        UserError: a setting is missing or not allowed.
    """
    from pydantic import ValidationError

    from pfedbayespt.server.settings import Settings

    try:
        return Settings(_env_file=file, **chosen)
    except ValidationError as error:
        raise UserError(_describe(error)) from error


def _describe(error: "ValidationError") -> str:
    lines = ["the settings are not complete or not allowed:"]
    for fault in error.errors(include_url=False, include_input=False):  # the input may be a secret
        name = "_".join(str(part) for part in fault["loc"]).upper()
        lines.append(f"  PFEDBAYESPT_{name}: {fault['msg']}")
    lines.append("`pfedbayespt coordinator init DIRECTORY` writes a settings file that will do")
    return "\n".join(lines)


def _write_new(file: Path, content: str) -> None:
    """Write a file that only its owner may read, and never over another."""
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UserError(f"{file} is there already, and its token is in use; remove it first") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(content)
