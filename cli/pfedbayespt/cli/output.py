"""Printing for people (rich tables) and for programs (JSON)."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from pfedbayespt.protocol import Message

_PIPE_WIDTH = 240

Item = TypeVar("Item", bound=Message)
Row = TypeVar("Row")
Columns = Mapping[str, Callable[[Item], object]]


def show_all(items: Iterable[Item], columns: Columns[Item], *, as_json: bool) -> None:
    """Print messages as a table with one row each, or as a JSON array."""
    listed = list(items)
    if as_json:
        print_json([item.model_dump(mode="json") for item in listed])
    else:
        show_rows(listed, columns)


def show_rows(listed: Sequence[Row], columns: Mapping[str, Callable[[Row], object]]) -> None:
    """Print a table with one row for each of the things listed."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for item in listed:
        table.add_row(*(text_of(column(item)) for column in columns.values()))
    console = Console()
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    console.print(table if listed else "none", markup=False)


def show(item: Message, *, as_json: bool = False, leave_out: Iterable[str] = ()) -> None:
    """Print one message, a field per line, or as a JSON object."""
    if as_json:
        print_json(item.model_dump(mode="json"))
        return
    fields = [name for name in type(item).model_fields if name not in set(leave_out)]
    width = max(map(len, fields))
    console = Console(soft_wrap=True)  # a token or digest must never be cut
    for name in fields:
        text = text_of(getattr(item, name)).replace("\n", f"\n{'':{width}}  ")
        console.print(f"{name:{width}}  {text}", markup=False, highlight=False)


def print_json(value: object) -> None:
    """Print plain JSON, never wrapped or coloured."""
    Console(soft_wrap=True).out(json.dumps(value, indent=2, ensure_ascii=False), highlight=False)


def text_of(value: object) -> str:
    """Return `value` as a table shows it."""
    match value:
        case None:
            return "-"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%SZ}"
        case float():
            return f"{value:.4g}"
        case Message():
            return json.dumps(value.model_dump(mode="json"), ensure_ascii=False)
        case tuple() | list():
            return "\n".join(text_of(part) for part in value) or "-"
        case Mapping():
            return ", ".join(f"{key} {text_of(part)}" for key, part in value.items()) or "-"
    return str(value)


def short(digest: str) -> str:
    """Return enough of a digest to recognise it."""
    return digest.removeprefix("sha256:")[:12]
