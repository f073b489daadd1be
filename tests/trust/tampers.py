"""Tampering with an export: every kind of record, at random places, as somebody with the database would.

A tamper changes one thing in a way that a careful forger would: hashes of a forged event are computed again,
digests are of the right form, forged signatures are good signatures of another key.
"""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pfedbayespt.protocol import Event, Receipt, SigningKey, UpdateStatement, VersionManifest

Line = dict[str, Any]
Change = Callable[[random.Random, list[Line]], None]


def _lines(file: Path) -> list[Line]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _write(file: Path, lines: list[Line]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _another(value: Any, draw: random.Random) -> Any:
    """Return another value of the same form."""
    match value:
        case bool():
            return not value
        case int():
            return value + draw.choice([1, 7, 1000])
        case float():
            return value * 1.5 + 0.25
        case str() if value.startswith("sha256:"):
            return f"sha256:{draw.getrandbits(256):064x}"
        case str() if "_" in value and value[:4] in {"rnd_", "upd_", "sit_", "key_"}:
            return f"{value[:4]}{draw.getrandbits(128):032x}"
        case str() if len(value) == 64:
            return f"{draw.getrandbits(256):064x}"
        case str() if value.startswith("20") and value.endswith("Z"):
            return value[:3] + draw.choice("0134578") + value[4:]
    return f"{value}x"


def _change_field(*names: str) -> Change:
    def change(draw: random.Random, lines: list[Line]) -> None:
        name = draw.choice(names)
        line = draw.choice([line for line in lines if line.get(name) is not None])
        line[name] = _another(line[name], draw)

    return change


def _change_inside(part: str, *names: str) -> Change:
    def change(draw: random.Random, lines: list[Line]) -> None:
        name = draw.choice(names)
        inside = draw.choice([line[part] for line in lines if line.get(part)])
        inside[name] = _another(inside[name], draw)

    return change


def _drop(draw: random.Random, lines: list[Line]) -> None:
    del lines[draw.randrange(len(lines) - 1)]


def _swap(draw: random.Random, lines: list[Line]) -> None:
    position = draw.randrange(len(lines) - 1)
    lines[position], lines[position + 1] = lines[position + 1], lines[position]


def _forge_event(draw: random.Random, lines: list[Line]) -> None:
    """Change an event and give it its proper hash: the next one no longer follows it."""
    position = draw.randrange(len(lines) - 1)
    event = Event.model_validate(lines[position] | {"actor": "admin_x"})
    lines[position] = event.model_copy(update={"hash": event.computed_hash()}).model_dump(mode="json")


def _rewrite_history(draw: random.Random, lines: list[Line]) -> None:
    """Change an event and chain everything after it again: only receipts can tell."""
    position = draw.randrange(len(lines) // 2)
    lines[position]["details"] = lines[position]["details"] | {"note": "nothing to see here"}
    previous = lines[position]["previous_hash"]
    for place in range(position, len(lines)):
        event = Event.model_validate(lines[place] | {"previous_hash": previous})
        previous = event.computed_hash()
        lines[place] = event.model_copy(update={"hash": previous}).model_dump(mode="json")


def _resign(kind: type[Receipt] | type[VersionManifest] | type[UpdateStatement], part: str | None) -> Change:
    """Have another key sign something else."""

    def change(draw: random.Random, lines: list[Line]) -> None:
        line = draw.choice([line for line in lines if part is None or line.get(part)])
        content = line if part is None else line[part]
        facts = {name: value for name, value in content.items() if name not in {"key_id", "signature"}}
        forged = kind.signed(SigningKey.generate(), **facts).model_dump(mode="json")
        line.update(forged if part is None else {part: forged})

    return change


def _move_pointer(draw: random.Random, lines: list[Line]) -> None:
    """Let another version serve."""
    serving = next(line for line in lines if line["status"] == "serving")
    other = draw.choice([line for line in lines if line["status"] == "retired"])
    serving["status"], other["status"] = "retired", "serving"


def _swap_inputs(draw: random.Random, lines: list[Line]) -> None:
    """Give an input another weight, in the record and in the manifest."""
    line = draw.choice([line for line in lines if line["inputs"]])
    place = draw.randrange(len(line["inputs"]))
    for inputs in (line["inputs"], line["manifest"]["inputs"]):
        inputs[place]["weight"] = inputs[place]["weight"] / 2


IN_LINES: dict[str, tuple[str, Change]] = {
    "event field": ("events.jsonl", _change_field("actor", "action", "subject", "occurred_at", "hash")),
    "event link": ("events.jsonl", _change_field("previous_hash")),
    "event dropped": ("events.jsonl", _drop),
    "events swapped": ("events.jsonl", _swap),
    "event forged": ("events.jsonl", _forge_event),
    "history rewritten": ("events.jsonl", _rewrite_history),
    "receipt field": ("receipts.jsonl", _change_field("digest", "size_bytes", "received_at", "audit_head")),
    "receipt forged": ("receipts.jsonl", _resign(Receipt, None)),
    "receipt dropped": ("receipts.jsonl", _drop),
    "update field": ("updates.jsonl", _change_field("digest", "site_id", "size_bytes")),
    "update dropped": ("updates.jsonl", _drop),
    "update's manifest": ("updates.jsonl", _change_inside("manifest", "num_examples", "base_digest")),
    "statement field": (
        "updates.jsonl",
        _change_inside("statement", "num_examples", "update_digest", "nonce", "round_id"),
    ),
    "statement forged": ("updates.jsonl", _resign(UpdateStatement, "statement")),
    "version field": ("versions.jsonl", _change_field("digest", "size_bytes", "round_id")),
    "version dropped": ("versions.jsonl", _drop),
    "manifest field": (
        "versions.jsonl",
        _change_inside("manifest", "digest", "size_bytes", "created_at", "code_version"),
    ),
    "manifest forged": ("versions.jsonl", _resign(VersionManifest, "manifest")),
    "inputs changed": ("versions.jsonl", _swap_inputs),
    "pointer moved": ("versions.jsonl", _move_pointer),
}


def _tamper_file(draw: random.Random, folder: Path) -> None:
    file = draw.choice(sorted((folder / "files").iterdir()))
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def _exchange_files(draw: random.Random, folder: Path) -> None:
    one, other = draw.sample(sorted((folder / "files").iterdir()), 2)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


def _tamper_header(draw: random.Random, folder: Path) -> None:
    file = folder / "export.json"
    header = json.loads(file.read_text())
    federation = header["federation"]
    match draw.randrange(3):
        case 0:
            federation["serving_version"] = 0
        case 1:
            federation["specification"]["training"]["learning_rate"] = draw.uniform(0.1, 1.0)
        case 2:
            key = SigningKey.generate()
            header["coordinator"] = {"key_id": key.key_id, "public_key": key.public_key}
    file.write_text(json.dumps(header))


KINDS = (*IN_LINES, "blob bit", "blobs exchanged", "header")


def tamper(sound: Path, folder: Path, kind: str, seed: int) -> None:
    """Write a copy of a sound export with one thing changed."""
    draw = random.Random(f"{kind} {seed}")
    shutil.copytree(sound, folder)
    if kind in IN_LINES:
        name, change = IN_LINES[kind]
        lines = _lines(folder / name)
        change(draw, lines)
        _write(folder / name, lines)
        return
    {"blob bit": _tamper_file, "blobs exchanged": _exchange_files, "header": _tamper_header}[kind](
        draw, folder
    )
