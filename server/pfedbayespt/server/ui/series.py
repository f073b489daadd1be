"""What sites report of versions, as curves: one per site, over the versions' numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pfedbayespt.protocol import ModelVersion

METRICS: Final = {
    "accuracy": "Accuracy",
    "nll": "Negative log-likelihood, nats",
    "ece": "Calibration error (ECE)",
}


@dataclass(frozen=True)
class Curves:
    """One metric: `values[i][j]` is what site i reports of version j, None where it reports nothing."""

    metric: str
    title: str
    versions: tuple[int, ...]
    sites: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    @property
    def data(self) -> list[list[float | int | None]]:
        """The form that the plots are drawn from: the versions, then each site's values."""
        return [list(self.versions), *(list(row) for row in self.values)]

    @property
    def rows(self) -> list[tuple[int, tuple[float | None, ...]]]:
        """The same as a table: each version and what the sites report of it."""
        return list(zip(self.versions, zip(*self.values, strict=True), strict=True))


def curves_of(versions: Sequence[ModelVersion]) -> list[Curves]:
    """Return the curves of every metric that at least one site reports."""
    reported = [version for version in reversed(versions) if version.evaluations]
    return [curves for metric in METRICS if any(map(_some, (curves := _curves_of(metric, reported)).values))]


def _curves_of(metric: str, versions: Sequence[ModelVersion]) -> Curves:
    values = {
        (report.site_name, version.version_number): report.evaluation.metrics.get(metric)
        for version in versions
        for report in version.evaluations
    }
    sites, numbers = sorted({name for name, _ in values}), [version.version_number for version in versions]
    return Curves(
        metric,
        METRICS[metric],
        tuple(numbers),
        tuple(sites),
        tuple(tuple(values.get((site, number)) for number in numbers) for site in sites),
    )


def _some(row: Sequence[float | None]) -> bool:
    return any(value is not None for value in row)
