"""Printing for people (rich tables) and for programs (JSON)."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from pfedbayespt.protocol import Message

Item = TypeVar("Item", bound=Message)
Columns = Mapping[str, Callable[[Item], object]]


def show_all(items: Iterable[Item], columns: Columns[Item], *, as_json: bool) -> None:
    """Print messages as a table with one row each, or as a JSON array."""
    listed = list(items)
    if as_json:
        print_json([item.model_dump(mode="json") for item in listed])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for item in listed:
        table.add_row(*(text_of(column(item)) for column in columns.values()))
    Console().print(table if listed else "none", markup=False)


def show(item: Message, *, as_json: bool = False, leave_out: Iterable[str] = ()) -> None:
    """Print one message, a field per line, or as a JSON object."""
    if as_json:
        print_json(item.model_dump(mode="json"))
        return
    grid = Table.grid(padding=(0, 2))
    hidden = set(leave_out)
    for name in type(item).model_fields:
        if name not in hidden:
            grid.add_row(name, text_of(getattr(item, name)))
    Console().print(grid, markup=False)


def print_json(value: object) -> None:
    """Print plain JSON, never wrapped or coloured."""
    Console(soft_wrap=True).out(json.dumps(value, indent=2, ensure_ascii=False), highlight=False)


def text_of(value: object) -> str:
    """Return `value` as a table shows it."""
    match value:
        case None:
            return "-"
        case datetime():
            return f"{value:%Y-%m-%d %H:%M:%S}"
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
