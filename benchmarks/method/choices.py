"""Learning rates and rounds: what is tried for every method, and what was best.

Rules:
    1. Every method with prompts has the same candidates, and a head alone those of them that differ for it.
    2. Every try is a row of `<out>/tuning.csv`; the least validation NLL wins.
"""

import csv
from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Choice:
    """What is tuned."""

    learning_rate: float
    head_learning_rate: float
    num_rounds: int


QUICK_CHOICE = Choice(5e-3, 2e-3, 4)
CANDIDATES = tuple(
    Choice(rate, head_rate, rounds)
    for rate in (5e-3, 2e-2)
    for head_rate in (4e-4, 1e-3)
    for rounds in (10, 20)
)
HEAD_CANDIDATES = tuple(
    choice for choice in CANDIDATES if choice.learning_rate == CANDIDATES[0].learning_rate
)
COLUMNS = ("plan", "method", *(f.name for f in fields(Choice)), "accuracy", "nll", "cpu_seconds")


def read_choices(file: Path) -> dict[str, dict[str, Choice]]:
    """Return the best choice of each method of each plan."""
    best: dict[str, dict[str, tuple[float, Choice]]] = defaultdict(dict)
    for row in read_rows(file):
        choice = Choice(float(row["learning_rate"]), float(row["head_learning_rate"]), int(row["num_rounds"]))
        known = best[row["plan"]].get(row["method"])
        if known is None or float(row["nll"]) < known[0]:
            best[row["plan"]][row["method"]] = float(row["nll"]), choice
    return {plan: {name: choice for name, (_, choice) in rows.items()} for plan, rows in best.items()}


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with `#` comments; none if there is no file yet."""
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))
