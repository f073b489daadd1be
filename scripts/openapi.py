"""Write docs/openapi.json from the code; refuse to, unless told otherwise, where that would break a caller.

A change breaks callers if an operation, an answer or a field of an answer goes away, if a parameter or a field of
a request becomes required or is no longer taken, or if a type or the allowed values change. Requests may take more,
and answers may hold more.

    python scripts/openapi.py              # `make openapi`
    python scripts/openapi.py --breaking   # after a decision, which the changelog tells
"""

import json
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pfedbayespt.server import Settings, create_app

SNAPSHOT = Path(__file__).parents[1] / "docs/openapi.json"
Json = dict[str, Any]


def document() -> Json:
    """Return the document that a coordinator gives out now."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings(admin_token=secrets.token_urlsafe(32), data_dir=Path(folder)))
        return json.loads(json.dumps(app.openapi()))  # as a caller reads it: lists for tuples


def text_of(content: Json) -> str:
    """Return the snapshot's text."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def breaking_changes(old: Json, new: Json) -> list[str]:
    """Return what would break a caller of `old` that meets `new`, one line each."""
    return [
        *_operations(old.get("paths", {}), new.get("paths", {})),
        *_schemas(_named(old), _named(new)),
    ]


def _named(content: Json) -> Json:
    schemas: Json = content.get("components", {}).get("schemas", {})
    return schemas


def _operations(old: Json, new: Json) -> Iterator[str]:
    for path, methods in old.items():
        for method, operation in methods.items():
            name = f"{method.upper()} {path}"
            now = new.get(path, {}).get(method)
            if now is None:
                yield f"{name} is gone"
                continue
            yield from _parameters(name, operation, now)
            gone = {status for status in operation["responses"] if status < "3"} - set(now["responses"])
            yield from (f"{name} no longer answers {status}" for status in sorted(gone))
            media = set(operation.get("requestBody", {}).get("content", {}))
            gone = media - set(now.get("requestBody", {}).get("content", {}))
            yield from (f"{name} no longer takes {kind}" for kind in sorted(gone))


def _parameters(name: str, old: Json, new: Json) -> Iterator[str]:
    before, after = ({(p["in"], p["name"]): p for p in each.get("parameters", ())} for each in (old, new))
    for key in sorted(before.keys() - after.keys()):
        yield f"{name} no longer takes the {key[0]} parameter {key[1]}"
    for key, parameter in sorted(after.items()):
        was_required = before.get(key, {}).get("required", False)
        if parameter.get("required", False) and not was_required:
            yield f"{name} requires the {key[0]} parameter {key[1]}"


def _schemas(old: Json, new: Json) -> Iterator[str]:
    for name, schema in sorted(old.items()):
        now = new.get(name)
        if now is None:
            yield f"the message {name} is gone"
            continue
        for field in sorted(schema.get("properties", {}).keys() - now.get("properties", {}).keys()):
            yield f"{name}.{field} is gone"
        for field in sorted(set(now.get("required", ())) - set(schema.get("required", ()))):
            if field in schema.get("properties", {}) or name.endswith(("Create", "Request", "Enrol")):
                yield f"{name}.{field} is required"
        gone = set(schema.get("enum", ())) - set(now.get("enum", ()))
        yield from (f"{name} no longer has the value {value!r}" for value in sorted(map(str, gone)))
        yield from _types(name, schema, now)


def _types(name: str, old: Json, new: Json) -> Iterator[str]:
    for field, schema in sorted(old.get("properties", {}).items()):
        now = new.get("properties", {}).get(field)
        if now is not None and schema.get("type") != now.get("type") and "anyOf" not in now:
            yield f"{name}.{field} was {schema.get('type')}, is {now.get('type')}"


def main() -> int:
    """Write the snapshot; 1: it would break callers."""
    new = document()
    old = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    broken = breaking_changes(old, new)
    sys.stdout.writelines(f"breaks callers: {change}\n" for change in broken)
    if broken and "--breaking" not in sys.argv[1:]:
        sys.stdout.write("not written; if it is meant, say so: make openapi BREAKING=1\n")
        return 1
    SNAPSHOT.write_text(text_of(new), encoding="utf-8")
    sys.stdout.write(f"{SNAPSHOT}: {len(new['paths'])} paths\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
