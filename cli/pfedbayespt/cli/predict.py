"""Predictions on the command line: asked of a coordinator, and how every prediction is printed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfedbayespt.cli.options import AsJson, Token, Url, connect

if TYPE_CHECKING:
    from pfedbayespt.protocol import Prediction

_BAR_WIDTH = 24

Image = Annotated[Path, typer.Argument(help="A JPEG, PNG or WEBP file.", exists=True, dir_okay=False)]
NumSamples = Annotated[
    int, typer.Option(min=1, max=256, help="Draws of the prompt posterior; 8 or more for honest uncertainty.")
]
TopK = Annotated[int, typer.Option(min=1, help="How many classes to show.")]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of the draws. Default: derived from the image and the version."),
]
ModelVersion = Annotated[
    int | None, typer.Option(min=0, help="A version's number. Default: the serving one.")
]


def predict(
    image: Image,
    federation: Annotated[str, typer.Option(help="The federation's name.")],
    url: Url,
    token: Token,
    *,
    num_samples: NumSamples = 16,
    top_k: TopK = 5,
    seed: Seed = None,
    model_version: ModelVersion = None,
    as_json: AsJson = False,
) -> None:
    """Ask a coordinator to classify an image. The image is sent to it; `site predict` keeps it here."""
    with connect(url, token) as client:
        prediction = client.predict(
            federation,
            image.read_bytes(),
            num_samples=num_samples,
            top_k=top_k,
            seed=seed,
            model_version=model_version,
        )
    show_prediction(prediction, as_json=as_json)


def show_prediction(prediction: "Prediction", *, as_json: bool) -> None:
    """Print a prediction."""
    from rich.console import Console
    from rich.table import Table

    from pfedbayespt.cli.output import print_json, short

    if as_json:
        print_json(prediction.model_dump(mode="json"))
        return
    console = Console()
    console.print(f"[bold]{_escaped(prediction.label)}[/bold]")
    table = Table.grid(padding=(0, 2))
    for item in prediction.probabilities:
        bar = "█" * round(item.probability * _BAR_WIDTH)
        table.add_row(_escaped(item.label), f"{item.probability:6.1%}", bar)
    console.print(table)
    doubt = prediction.uncertainty
    parts = f"{doubt.aleatoric_entropy_nats:.3f} in the image itself (aleatoric), " + (
        f"{doubt.epistemic_entropy_corrected_nats:.3f} the model does not know (epistemic)"
        if doubt.prompt_variance
        else "what the model does not know is not measured, for no two samples have different prompts"
    )
    console.print(f"doubt {doubt.total_entropy_nats:.3f} nats: {parts}", highlight=False)
    console.print(
        f"{prediction.federation} version {prediction.model_version} ({short(prediction.model_digest)}), "
        f"{prediction.num_samples} samples, seed {prediction.seed}",
        style="dim",
        highlight=False,
    )


def _escaped(label: str) -> str:
    from rich.markup import escape

    return escape(label)
