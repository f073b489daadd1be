"""What is tuned: what is tried for every method, and what was best.

Rules:
    1. Every trained method has as many candidates: the same, or those that differ for a head alone, for heads that
       are cross-fitted, or for more rounds. What has no rounds has its own.
    2. All candidates are tried on one deal of images; the best of them, by NLL, on further deals. Heads that are
       fitted anew over trained prompts cost next to nothing: all of them are tried on every deal.
    3. The least mean NLL over all deals wins. Every try is a row of `<out>/tuning.csv`.
"""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from statistics import fmean


@dataclass(frozen=True)
class Choice:
    """What is tuned.

    Attributes:
        learning_rate: of prompt and generator.
        head_learning_rate: of the head, where it is trained.
        num_rounds: of training.
        ridge: lambda of a head in closed form.
        logit_scale: from the regression's outputs to logits.
        fold_ridge: lambda of the heads that prompts are trained against, where they are cross-fitted.
    """

    learning_rate: float = 5e-3
    head_learning_rate: float = 4e-4
    num_rounds: int = 10
    ridge: float = 1000.0
    logit_scale: float = 10.0
    fold_ridge: float = 10.0


DEALS = (100, 101)
"""Seeds that deal the images; no table has them."""

NUM_FINALISTS = 2
QUICK_CHOICE = Choice(5e-3, 2e-3, 4)
_PROMPT_RATES, _HEAD_RATES = (5e-3, 2e-2), (4e-4, 1e-3)
CANDIDATES = tuple(Choice(rate, head_rate) for rate in _PROMPT_RATES for head_rate in _HEAD_RATES)
LONG_CANDIDATES = tuple(
    Choice(rate, head_rate, num_rounds=20) for rate in (2e-2, 5e-2) for head_rate in (1e-3, 2.5e-3)
)
"""Beyond what is best of the others: whether rounds and rates are what rivals lack."""

HEAD_CANDIDATES = tuple(
    Choice(head_learning_rate=rate, num_rounds=rounds) for rate in _HEAD_RATES for rounds in (10, 20)
)
PROMPT_CANDIDATES = tuple(Choice(rate, fold_ridge=ridge) for rate in _PROMPT_RATES for ridge in (3.0, 10.0))
"""Of a method whose head takes no steps but is cross-fitted."""

RIDGE_CANDIDATES = tuple(
    Choice(ridge=ridge, logit_scale=scale)
    for ridge in (300.0, 1000.0, 3000.0, 10000.0)
    for scale in (7.0, 10.0, 14.0, 20.0)
)
ROUNDS_OF_OURS = (Choice(num_rounds=20),)
"""Of heads in closed form round by round: as many as ours has in all, and the product's lambda."""

SCALE_CANDIDATES = tuple(Choice(logit_scale=scale) for scale in (3.0, 5.0, 7.0, 10.0))
"""Of class means, which have no lambda."""

COLUMNS = ("plan", "method", "deal", *(f.name for f in fields(Choice)), "accuracy", "nll")

Tries = dict[Choice, dict[int, float]]
"""The NLL of every choice on every deal."""


def read_tries(file: Path) -> dict[tuple[str, str], Tries]:
    """Return the tries of each (plan, method)."""
    tries: dict[tuple[str, str], Tries] = defaultdict(lambda: defaultdict(dict))
    for row in read_rows(file):
        choice = Choice(**{f.name: f.type(row[f.name]) for f in fields(Choice)})  # type: ignore[operator]
        tries[row["plan"], row["method"]][choice][int(row["deal"])] = float(row["nll"])
    return {key: dict(of) for key, of in tries.items()}


def read_choices(file: Path) -> dict[str, dict[str, Choice]]:
    """Return the best choice of each method of each plan."""
    best: dict[str, dict[str, Choice]] = defaultdict(dict)
    for (plan, method), tries in read_tries(file).items():
        best[plan][method] = ranked(tries)[0]
    return dict(best)


def ranked(tries: Tries) -> list[Choice]:
    """Return the choices by mean NLL, those that were tried on most deals first."""
    return sorted(tries, key=lambda choice: (-len(tries[choice]), fmean(tries[choice].values())))


def due(candidates: Sequence[Choice], tries: Tries) -> list[tuple[Choice, int]]:
    """Return which tries are to be made next: the first deal for all, or the others for the finalists."""
    first, *others = DEALS
    missing = [(choice, first) for choice in candidates if first not in tries.get(choice, {})]
    if missing:
        return missing
    finalists = sorted(candidates, key=lambda choice: tries[choice][first])[:NUM_FINALISTS]
    return [(choice, deal) for deal in others for choice in finalists if deal not in tries[choice]]


def row_of(plan: str, method: str, deal: int, choice: Choice, measured: Sequence[float]) -> list[object]:
    """Return a row of the table of tries, in the order of `COLUMNS`."""
    return [plan, method, deal, *astuple(choice), *measured]


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file with `#` comments; none if there is no file yet."""
    if not file.exists():
        return []
    with file.open(newline="") as stream:
        return list(csv.DictReader(line for line in stream if not line.startswith("#")))
