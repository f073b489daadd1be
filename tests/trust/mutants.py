"""One-field mutants of a valid update: its statement, its headers, its file's header, manifest and numbers."""

import base64
import hashlib
import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.server.harness import SiteCaller, statement_header, upload_headers

from pfedbayespt.protocol import STATEMENT_HEADER, SigningKey, UpdateStatement

_METRICS = ({"A": 1.0}, {"loss": "low"}, {"loss": float("nan")}, [], {"x" * 99: 1})
_NUMBERS = (0, -1, 2**63, 2**64, 10**400, 1.5, 1e308, True, None, "10", [], {}, float("nan"), float("inf"))
_TEXTS = (
    "",
    "x",
    "\0",
    "é" * 70,
    "../../etc/passwd",
    "A" * 5000,
    None,
    7,
    [],
    {},
    "'; DROP TABLE updates; --",
)


@dataclass(frozen=True)
class Mutant:
    """A request that differs from a valid one in one place."""

    what: str
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _joined(header: Any, data: bytes, *, length: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def _other_value(draw: random.Random, value: Any) -> Any:
    choices = _NUMBERS if isinstance(value, int | float) else _TEXTS
    return draw.choice([choice for choice in choices if choice != value or isinstance(choice, bool)])


def in_the_manifest(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """Change, drop or add one field of the manifest."""
    header, data = _split(content)
    manifest = json.loads(header["__metadata__"]["manifest"])
    name = draw.choice(sorted(set(manifest) - {"metrics"}))
    match draw.randrange(4):
        case 0 if name != "format":
            del manifest[name]
        case 1:
            manifest["extra"] = 1
        case 2:
            manifest["metrics"] = draw.choice(
                [{"A": 1.0}, {"loss": "low"}, {"loss": float("nan")}, [], {"x" * 99: 1}]
            )
        case _:
            manifest[name] = _other_value(draw, manifest[name])
    header["__metadata__"]["manifest"] = json.dumps(manifest)
    return f"manifest {name}", _joined(header, data)


_ENTRIES = {
    "dtype": ("F16", "F64", "I64", "BOOL", "", None, 3),
    "shape": ([], [0], [-1], [2**40], [2**62, 4], [1.0], ["3"], None, [True]),
    "data_offsets": ([0, 0], [4, 2], [-4, 8], [0, 2**60], None, [0], [0, 1, 2]),
}
_NAMES = ("../x", "a b", "", "é", "__proto__", "x" * 200)
_METADATA = (None, {}, {"manifest": 3}, {"other": "x"}, [], "text")
_ANYTHING = (None, [], 3, "x", {"dtype": "F32"})
_LENGTHS = (0, 1, 2**16 + 1, 2**40, 2**63, 2**64 - 1)


def in_the_header(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """Change one entry of the file's header, or what is around it."""
    header, data = _split(content)
    name = draw.choice(sorted(set(header) - {"__metadata__"}))
    match draw.choice([*_ENTRIES, "name", "missing", "metadata", "length", "entry"]):
        case "name":
            header[draw.choice(_NAMES)] = header.pop(name)
        case "missing":
            del header[name]
        case "metadata":
            header["__metadata__"] = draw.choice(_METADATA)
        case "length":
            return "length", _joined(header, data, length=draw.choice(_LENGTHS))
        case "entry":
            header[name] = draw.choice(_ANYTHING)
        case part:
            header[name][part] = draw.choice(
                [value for value in _ENTRIES[part] if value != header[name][part]]
            )
    return f"header {name}", _joined(header, data)


def in_the_numbers(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """Make one number something that no honest update holds."""
    (length,) = struct.unpack("<Q", content[:8])
    start = 8 + length
    place = start + 4 * draw.randrange((len(content) - start) // 4)
    bad = draw.choice([float("nan"), float("inf"), float("-inf"), 1e30, -3e38])
    changed = bytearray(content)
    changed[place : place + 4] = struct.pack("<f", bad)
    return "number", bytes(changed)


def in_the_bytes(draw: random.Random, content: bytes) -> tuple[str, bytes]:
    """Cut the file, add to it, or change its header's bytes."""
    match draw.randrange(4):
        case 0:
            return "cut", content[: draw.randrange(len(content))]
        case 1:
            return "tail", content + draw.randbytes(draw.randint(1, 64))
        case 2:
            (length,) = struct.unpack("<Q", content[:8])
            changed = bytearray(content)
            changed[draw.randrange(8 + length)] ^= 1 << draw.randrange(8)
            return "header bit", bytes(changed)
    return "random", draw.randbytes(draw.randint(1, 2000))


def _in_the_statement(draw: random.Random, site: SiteCaller, round_id: str, content: bytes) -> dict[str, str]:
    sound = site.statement(round_id, content).model_dump(mode="json")
    name = draw.choice(sorted(sound))
    match draw.randrange(4):
        case 0:
            del sound[name]
        case 1:
            sound["extra"] = 1
        case _:
            sound[name] = _other_value(draw, sound[name])
    text = base64.urlsafe_b64encode(json.dumps(sound).encode()).rstrip(b"=").decode()
    return {STATEMENT_HEADER: text}


def _signed_by_another(
    draw: random.Random, site: SiteCaller, round_id: str, content: bytes
) -> dict[str, str]:
    statement = site.statement(round_id, content, key=SigningKey.generate())
    if draw.random() < 0.5:
        statement = statement.model_copy(update={"key_id": site.key.key_id})
    return statement_header(UpdateStatement.model_validate(statement.model_dump()))


def _in_the_headers(draw: random.Random, _site: SiteCaller, _round: str, content: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.sha256(content + b"x").digest()).decode()
    return draw.choice(
        [
            {"Content-Type": draw.choice(["application/json", "text/plain", "", "x" * 300])},
            {"Content-Digest": f"sha-256=:{digest}:"},
            {"Content-Digest": draw.choice(["", "sha-256=:!:", "md5=:AAAA:", "sha-256", ":" * 500])},
            {"Content-Length": draw.choice(["-1", "1e9", "999999999999999999999", "0x10"])},
            {STATEMENT_HEADER: draw.choice(["", "e30", "!!", "W1tb" * 1100, "bnVsbA", "MQ", "IiI"])},
        ]
    )


InFile = Callable[[random.Random, bytes], tuple[str, bytes]]
IN_FILES: tuple[InFile, ...] = (in_the_manifest, in_the_header, in_the_numbers, in_the_bytes)
IN_HEADERS = (_in_the_statement, _signed_by_another, _in_the_headers)


def mutants(site: SiteCaller, round_id: str, content: bytes, number: int, seed: int = 0) -> Iterator[Mutant]:
    """Yield mutants of a valid update, each signed as its site would sign it, unless the signature is the point."""
    draw = random.Random(seed)
    made = 0
    while made < number:
        if draw.random() < 0.7:
            what, changed = draw.choice(IN_FILES)(draw, content)
            if changed == content:
                continue
            headers = upload_headers(changed) | statement_header(site.statement(round_id, changed))
            yield Mutant(what, changed, headers)
        else:
            headers = upload_headers(content) | statement_header(site.statement(round_id, content))
            headers |= draw.choice(IN_HEADERS)(draw, site, round_id, content)
            yield Mutant("headers", content, headers)
        made += 1


def sent(site: SiteCaller, round_id: str, mutant: Mutant) -> Any:
    """Send a mutant and return the answer."""
    path = f"/v1/rounds/{round_id}/updates/{site.site_id}"
    return site.request("PUT", path, content=mutant.content, headers=mutant.headers)
