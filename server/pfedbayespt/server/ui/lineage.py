"""Where versions come from, as a picture: each version beside its parent's line, drawn by the server as SVG.

The first version that was let out from a parent continues its line; a held one, and one that starts from an older
version after a rollback, stands in a row of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pfedbayespt.protocol import ModelVersion, ModelVersionStatus

COLUMN: Final = 92
ROW: Final = 74
_MARGIN: Final = 46


@dataclass(frozen=True)
class Node:
    """A version and where it stands, in pixels."""

    version: ModelVersion
    x: int
    y: int


@dataclass(frozen=True)
class Edge:
    """From a parent to its child, in pixels."""

    start: Node
    end: Node

    @property
    def path(self) -> str:
        """The curve, as SVG writes it."""
        a, b = self.start, self.end
        middle = (a.x + b.x) // 2
        return f"M{a.x} {a.y} C{middle} {a.y} {middle} {b.y} {b.x} {b.y}"


@dataclass(frozen=True)
class Lineage:
    """The whole picture."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    width: int
    height: int


def lineage_of(versions: Sequence[ModelVersion]) -> Lineage:
    """Return the picture of these versions, in any order."""
    ordered = sorted(versions, key=lambda version: version.version_number)
    rows = _rows(ordered)
    nodes = {
        version.version_number: Node(version, _MARGIN + COLUMN * column, _MARGIN + ROW * rows[column])
        for column, version in enumerate(ordered)
    }
    edges = tuple(
        Edge(nodes[node.version.parent_version], node)
        for node in nodes.values()
        if node.version.parent_version in nodes
    )
    width = 2 * _MARGIN + COLUMN * max(0, len(ordered) - 1)
    height = 2 * _MARGIN + ROW * max(rows, default=0)
    return Lineage(tuple(nodes.values()), edges, width, height)


def _rows(ordered: Sequence[ModelVersion]) -> list[int]:
    """Return the row of each version: its parent's for the first that was let out, else a new one."""
    row_of: dict[int, int] = {}
    continued: set[int] = set()
    for version in ordered:
        parent, is_held = version.parent_version, version.status == ModelVersionStatus.HELD
        if parent in row_of and parent not in continued and not is_held:
            continued.add(parent)
            row_of[version.version_number] = row_of[parent]
        else:
            row_of[version.version_number] = max(row_of.values(), default=-1) + 1
    return [row_of[version.version_number] for version in ordered]
