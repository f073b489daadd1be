"""What the demo shows while it runs and when it is done."""

from collections.abc import Iterable, Sequence

from rich.console import Console, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from pfedbayespt.client import CoordinatorClient
from pfedbayespt.demo.facts import Answer
from pfedbayespt.demo.gather import curves_of
from pfedbayespt.demo.report import Standing
from pfedbayespt.protocol import FederationStatus, RoundStatus, RoundTask

_BAR = 24


def progress_of(client: CoordinatorClient, federations: Sequence[str], num_rounds: int) -> RenderableType:
    """Return a table of the federations' live rounds and their sites' latest accuracies."""
    table = Table("federation", "round", "state", "accuracy on each site's held-out images", expand=True)
    for name in federations:
        rounds = [row for row in client.rounds.list(name) if row.status is not RoundStatus.ABANDONED]
        training = [row for row in rounds if row.task is RoundTask.TRAINING]
        state = rounds[0].status if rounds else FederationStatus.ACTIVE
        curves = curves_of(client, name, "accuracy")
        latest = "  ".join(f"{site} {100 * curve[-1][1]:.0f} %" for site, curve in sorted(curves.items()))
        table.add_row(name, f"{len(training)}/{num_rounds}", str(state), latest or "gathering statistics")
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
