"""Writing an export: pages from the coordinator, message by message, so that a long history fits any machine."""

from collections.abc import Iterator
from pathlib import Path

from pfedbayespt.cli.audit.archive import Header, file_of, write_lines
from pfedbayespt.cli.failures import UserError
from pfedbayespt.client import CoordinatorClient
from pfedbayespt.protocol import ModelVersion, Receipt, Update, UpdateStatus


def write_export(client: CoordinatorClient, name: str, folder: Path, *, with_files: bool) -> None:
    """Write an export of a federation into a new folder.

    The chain of events is read last: it holds whatever the other files speak of.

    Raises:
        UserError: the folder is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty; an export goes into a folder of its own")
    folder.mkdir(parents=True, exist_ok=True)
    updates = list(_updates(client, name))
    versions = sorted(client.model_versions.list(name), key=lambda version: version.version_number)
    write_lines(folder / "updates.jsonl", updates)
    write_lines(folder / "receipts.jsonl", _receipts(client, updates))
    write_lines(folder / "versions.jsonl", versions)
    write_lines(folder / "sites.jsonl", client.sites.list(name))
    if with_files:
        _write_files(client, name, folder, updates, versions)
    header = Header(federation=client.federations.get(name), coordinator=client.identity())
    (folder / "export.json").write_text(header.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_lines(folder / "events.jsonl", client.events(name))


def _updates(client: CoordinatorClient, name: str) -> Iterator[Update]:
    for round_ in client.rounds.list(name):
        yield from client.updates.list(round_.round_id)


def _receipts(client: CoordinatorClient, updates: list[Update]) -> Iterator[Receipt]:
    for update in updates:
        if update.status is not UpdateStatus.QUARANTINED:
            yield client.updates.receipt(update.update_id)


def _write_files(
    client: CoordinatorClient, name: str, folder: Path, updates: list[Update], versions: list[ModelVersion]
) -> None:
    (folder / "files").mkdir()
    for version in versions:
        content = client.model_versions.download(name, version.version_number, version.digest)
        file_of(folder, version.digest).write_bytes(content)
    for update in updates:
        if update.status is UpdateStatus.AGGREGATED and update.payload_retired_at is None:
            content = client.updates.download(update.update_id, update.digest)
            file_of(folder, update.digest).write_bytes(content)
