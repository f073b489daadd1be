"""An export: everything that an auditor needs of one federation, as plain files.

    export.json       the federation, its signed terms, and the coordinator's public key
    events.jsonl      every event, in order, with the hashes that chain them
    sites.jsonl       the sites
    updates.jsonl     every update, with what its site signed
    receipts.jsonl    the coordinator's receipt of every accepted update
    versions.jsonl    every model version, with its signed manifest, oldest first
    files/<sha256>    the files of versions and updates, if asked for

Lines are the messages of the wire contract, in JSON.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from pfedbayespt.cli.failures import UserError
from pfedbayespt.protocol import (
    CoordinatorIdentity,
    Event,
    Federation,
    Message,
    ModelVersion,
    Receipt,
    Site,
    Update,
)

Record = TypeVar("Record", bound=Message)


class Header(Message):
    """What `export.json` says."""

    format: Literal["pfedbayespt.export/1"] = "pfedbayespt.export/1"
    federation: Federation
    coordinator: CoordinatorIdentity


@dataclass(frozen=True)
class Archive:
    """An export in memory; the files stay where they are."""

    folder: Path
    header: Header
    events: list[Event]
    sites: list[Site]
    updates: list[Update]
    receipts: list[Receipt]
    versions: list[ModelVersion]

    @classmethod
    def read(cls, folder: Path) -> "Archive":
        """Read an export.

        Raises:
            UserError: the folder holds none, or a line that is not what it must be.
        """
        return cls(
            folder,
            read_message(folder / "export.json", Header),
            list(read_lines(folder / "events.jsonl", Event)),
            list(read_lines(folder / "sites.jsonl", Site)),
            list(read_lines(folder / "updates.jsonl", Update)),
            list(read_lines(folder / "receipts.jsonl", Receipt)),
            list(read_lines(folder / "versions.jsonl", ModelVersion)),
        )

    def files(self) -> Iterator[Path]:
        """Yield the files of versions and updates that the export holds."""
        yield from sorted((self.folder / "files").glob("*"))

    def file(self, digest: str) -> Path:
        """Return where the file of that digest is, or would be."""
        return file_of(self.folder, digest)


def file_of(folder: Path, digest: str) -> Path:
    """Return where an export keeps the file of a digest."""
    return folder / "files" / digest.removeprefix("sha256:")


def read_message(file: Path, kind: type[Record]) -> Record:
    """Read a file that holds one message.

    Raises:
        UserError: it is missing or holds something else.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing; `pfedbayespt admin export` writes an export")
    return _parse(file.read_bytes(), kind, str(file))


def read_lines(file: Path, kind: type[Record]) -> Iterator[Record]:
    """Yield the messages of a file with one a line.

    Raises:
        UserError: it is missing or holds something else.
    """
    if not file.is_file():
        raise UserError(f"{file} is missing; `pfedbayespt admin export` writes an export")
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            yield _parse(line, kind, f"{file}, line {number}")


def write_lines(file: Path, messages: Iterable[Message]) -> None:
    """Write messages, one a line."""
    with file.open("wb") as lines:
        for message in messages:
            lines.write(message.model_dump_json().encode() + b"\n")


def _parse(content: bytes, kind: type[Record], where: str) -> Record:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, fault["loc"])) or "it"
        raise UserError(f"{where} is not a {kind.__name__}: {place}: {fault['msg']}") from error
