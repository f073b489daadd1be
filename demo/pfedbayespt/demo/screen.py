"""What the demo shows while it runs and when it is done."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from pfedbayespt.client import CoordinatorClient
from pfedbayespt.demo.facts import Answer
from pfedbayespt.demo.gather import curves_of
from pfedbayespt.demo.report import Standing
from pfedbayespt.protocol import RoundStatus, RoundTask

_BAR = 24


@dataclass(frozen=True)
class Progress:
    """How far a federation has come.

    Attributes:
        published: training rounds that have published a version.
        state: of its last round.
        accuracy: each site's last one on its held-out images.
    """

    federation: str
    published: int
    planned: int
    state: str
    accuracy: Mapping[str, float]

    @property
    def is_complete(self) -> bool:
        """Whether all planned rounds have published."""
        return self.published >= self.planned


def look(client: CoordinatorClient, federation: str, num_rounds: int) -> Progress:
    """Ask the coordinator how far a federation has come."""
    rounds = list(client.rounds.list(federation))
    return Progress(
        federation,
        published=sum(
            row.task is RoundTask.TRAINING and row.status is RoundStatus.PUBLISHED for row in rounds
        ),
        planned=num_rounds,
        state=rounds[0].status if rounds else "waiting for its sites",
        accuracy={site: row[-1][1] for site, row in curves_of(client, federation, "accuracy").items()},
    )


def progress_table(federations: Iterable[Progress]) -> RenderableType:
    """Return a table of how far federations have come."""
    table = Table("federation", "round", "state", "accuracy on each site's held-out images", expand=True)
    for row in federations:
        latest = "  ".join(f"{site} {100 * value:.0f} %" for site, value in sorted(row.accuracy.items()))
        table.add_row(
            row.federation,
            f"{row.published}/{row.planned}",
            row.state,
            latest or "gathering statistics",
        )
    return table


def live(console: Console) -> Live:
    """Return a display that redraws itself in a terminal and prints its last state elsewhere."""
    return Live(console=console, refresh_per_second=4, transient=False)


def show_answer(console: Console, title: str, answer: Answer) -> None:
    """Print one prediction with its doubt."""
    prediction, doubt = answer.prediction, answer.prediction.uncertainty
    lines = [
        f"{row.label:<18}{'█' * round(_BAR * row.probability):<{_BAR}} {100 * row.probability:5.1f} %"
        for row in prediction.probabilities[:3]
    ]
    split = (
        f"total {doubt.total_entropy_nats:.3f} = aleatoric {doubt.aleatoric_entropy_nats:.3f} "
        f"+ epistemic {doubt.epistemic_entropy_nats:.4f} nats; prompt variance {doubt.prompt_variance:.2e}"
    )
    source = (
        f"version {prediction.model_version} ({prediction.model_digest[:19]}…), "
        f"{prediction.num_samples} samples, seed {prediction.seed}"
    )
    shown = f"{title}: {answer.drawing.domain}, in truth: {answer.drawing.label}"
    console.print(Panel("\n".join([*lines, "", split, source]), title=shown, title_align="left"))


def show_standings(console: Console, rows: Iterable[Standing]) -> None:
    """Print the final accuracies, as measured."""
    table = Table(
        "site", "alone", "federated, one shared prompt", "federated pFedBayesPT", title="accuracy, %"
    )
    for row in rows:
        table.add_row(
            row.site, *(f"{100 * value:.1f}" for value in (row.alone, row.shared_prompt, row.federated))
        )
    console.print(table)
