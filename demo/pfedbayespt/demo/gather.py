"""What the coordinator knows after a run, read through its API -> the facts of the report."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pfedbayespt.client import CoordinatorClient
from pfedbayespt.demo.facts import Answer, Curve
from pfedbayespt.demo.scenario import Drawing
from pfedbayespt.protocol import ModelVersion, RoundTask

NUM_SAMPLES = 16
_AT_ONCE = 2  # as many as the coordinator computes at once


def curves_of(client: CoordinatorClient, federation: str, metric: str) -> dict[str, Curve]:
    """Return site name -> (training round, `metric` on the site's held-out images) in order."""
    training = [round_ for round_ in client.rounds.list(federation) if round_.task is RoundTask.TRAINING]
    number_of = {round_.round_id: index for index, round_ in enumerate(reversed(training), start=1)}
    curves: dict[str, list[tuple[int, float]]] = {}
    for version in versions_in_order(client, federation):
        for report in version.evaluations:
            if version.round_id in number_of:
                point = (number_of[version.round_id], report.evaluation.metrics[metric])
                curves.setdefault(report.site_name, []).append(point)
    return dict(curves)


def versions_in_order(client: CoordinatorClient, federation: str) -> list[ModelVersion]:
    """Return all versions, oldest first."""
    return sorted(client.model_versions.list(federation), key=lambda version: version.version_number)


def ask(client: CoordinatorClient, federation: str, images: Sequence[Drawing], origin: str) -> list[Answer]:
    """Post every image to the federation's prediction endpoint, two at a time, and return the answers in order."""

    def answer(image: Drawing) -> Answer:
        prediction = client.predict(federation, image.path.read_bytes(), num_samples=NUM_SAMPLES)
        return Answer(image, origin, prediction)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(answer, images))
