"""`pfedbayespt verify` and `rebuild`: what an auditor does, offline, with an export."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfedbayespt.cli.failures import UserError

if TYPE_CHECKING:
    from pfedbayespt.cli.audit.archive import Archive

Export = Annotated[
    Path, typer.Argument(help="Folder that `pfedbayespt admin export` wrote.", exists=True, file_okay=False)
]


def verify(
    export: Export,
    *,
    coordinator_key: Annotated[
        str | None,
        typer.Option(help="key_..., as the sites pinned it. Default: the key that the export itself names."),
    ] = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option(help="A site's receipts.jsonl; repeat it for several sites.", exists=True),
    ] = None,
    prediction: Annotated[
        Path | None,
        typer.Option(help="A prediction, as JSON: follow it back to the updates behind it.", exists=True),
    ] = None,
) -> None:
    """Check everything in an export that is signed, chained or named by a digest. Needs no network.

    Exits with 1 if anything does not hold.
    """
    from pfedbayespt.cli.audit.archive import Archive, read_lines
    from pfedbayespt.cli.audit.verification import Audit
    from pfedbayespt.protocol import Receipt, key_id_of

    archive = Archive.read(export)
    key_id = key_id_of(archive.header.coordinator.public_key)
    if coordinator_key not in {None, key_id}:
        raise UserError(f"the export is signed with {key_id}, but {coordinator_key} was expected")
    kept = [receipt for file in receipts or [] for receipt in read_lines(file, Receipt)]
    problems = list(Audit(archive, kept).problems())
    for problem in problems:
        typer.echo(f"NOT SOUND  {problem}")
    if problems:
        raise UserError(f"{len(problems)} things in {export} do not hold")
    _tell(archive, key_id, len(kept), is_pinned=coordinator_key is not None)
    if prediction is not None:
        _trace(archive, prediction)


def rebuild(
    version: Annotated[int, typer.Argument(min=1, help="The version's number.")],
    export: Annotated[
        Path, typer.Option(help="Folder that `pfedbayespt admin export --files` wrote.", exists=True)
    ],
) -> None:
    """Compute a model version again from its recorded inputs, and compare the digests. Needs no network."""
    from pfedbayespt.cli.audit.archive import Archive
    from pfedbayespt.cli.audit.rebuilding import rebuild as compute

    archive = Archive.read(export)
    digest = compute(archive, version)
    recorded = next(one.digest for one in archive.versions if one.version_number == version)
    if digest != recorded:
        raise UserError(f"version {version} is recorded as {recorded}, but its inputs lead to {digest}")
    typer.echo(f"version {version} is {digest}, computed again from its recorded inputs: the same bytes")


def _tell(archive: "Archive", key_id: str, num_kept: int, *, is_pinned: bool) -> None:
    head = archive.events[-1].hash
    whose = "the expected coordinator" if is_pinned else "the coordinator that the export names"
    typer.echo(f"sound: federation {archive.header.federation.name}, signed by {whose}, {key_id}")
    typer.echo(f"  {len(archive.events)} events, head {head}")
    typer.echo(
        f"  {len(archive.updates)} updates, {len(archive.receipts)} receipts, {num_kept} kept by sites"
    )
    typer.echo(f"  {len(archive.versions)} versions, {sum(1 for _ in archive.files())} files")


def _trace(archive: "Archive", file: Path) -> None:
    from pfedbayespt.cli.audit.archive import read_message
    from pfedbayespt.protocol import Prediction

    answer = read_message(file, Prediction)
    version = next((one for one in archive.versions if one.digest == answer.model_digest), None)
    if version is None or version.version_number != answer.model_version:
        raise UserError(
            f"the prediction names version {answer.model_version}, {answer.model_digest}, unknown here"
        )
    sites = {site.site_id: site for site in archive.sites}
    typer.echo(f"prediction {answer.label!r} for image {answer.image_digest}")
    typer.echo(f"  version {version.version_number}, {version.digest}, from version {version.parent_version}")
    typer.echo(f"  round {version.round_id}, {len(version.inputs)} updates")
    for part in version.inputs:
        site = sites[part.site_id]
        typer.echo(
            f"    {part.digest} of {site.site_name} ({site.organisation}), "
            f"{part.num_examples} examples, weight {part.weight:.6g}"
        )
