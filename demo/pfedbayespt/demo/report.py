"""Facts -> one self-contained HTML page: no network, no scripts, images and plots inside."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import jinja2
import numpy as np

from pfedbayespt.demo import charts
from pfedbayespt.demo.facts import Answer, Answers, Curves, Facts
from pfedbayespt.demo.measures import area_under_risk_coverage, auroc, expected_calibration_error
from pfedbayespt.protocol import ModelVersion, ModelVersionStatus

GRID_ROWS = (("right, on the sites' domains", 6), ("wrong, on the sites' domains", 6), ("unseen domain", 6))


@dataclass(frozen=True)
class Standing:
    """What each method came to at one site."""

    site: str
    federated: float
    shared_prompt: float
    alone: float


def standings(curves: Curves) -> list[Standing]:
    """Return each site's measure at the last round of every method."""
    final = {
        method: {site: curve[-1][1] for site, curve in sites.items()} for method, sites in curves.items()
    }
    return [
        Standing(site, final["pFedBayesPT"][site], final["shared prompt"][site], final["alone"][site])
        for site in sorted(final["pFedBayesPT"])
    ]


def results(facts: Facts) -> dict[str, object]:
    """Return what a program would want to know of the run, ready for JSON."""
    served = served_version(facts)
    return {
        "num_classes": len(facts.classes),
        "accuracy": [asdict(row) for row in standings(facts.accuracy)],
        "nll": [asdict(row) for row in standings(facts.nll)],
        "doubt": _doubt_table(facts.known, facts.unseen),
        "accuracy_known_domains": float(facts.known.correct.mean()),
        "accuracy_unseen_domain": float(facts.unseen.correct.mean()),
        "expected_calibration_error": expected_calibration_error(facts.known.confidence, facts.known.correct),
        "served": {
            "version": served.version_number,
            "digest": served.digest,
            "inputs": [
                {"site_name": facts.site_names[item.site_id], "weight": item.weight, "digest": item.digest}
                for item in served.inputs
            ],
        },
        "setting": dict(facts.setting),
    }


def served_version(facts: Facts) -> ModelVersion:
    """Return the version that answers predictions."""
    return next(version for version in facts.versions if version.status is ModelVersionStatus.SERVING)


def render(facts: Facts) -> str:
    """Return the report's HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pfedbayespt.demo", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.filters["image"] = _data_url
    return environment.get_template("report.html").render(
        facts=facts,
        standings=list(zip(standings(facts.accuracy), standings(facts.nll), strict=True)),
        max_epistemic=float(max(facts.known.epistemic_entropy.max(), facts.unseen.epistemic_entropy.max())),
        doubt=_doubt_table(facts.known, facts.unseen),
        accuracy_plot=charts.accuracy_by_round(facts.accuracy, chance=1 / len(facts.classes)),
        risk_plot=charts.risk_by_coverage(
            {"total entropy": facts.known.total_entropy, "epistemic entropy": facts.known.epistemic_entropy},
            facts.known.correct,
        ),
        total_plot=charts.doubt_by_origin(
            facts.known.total_entropy, facts.unseen.total_entropy, "total entropy"
        ),
        grid=list(_grid(facts)),
        served=_served_lineage(facts),
    )


def _doubt_table(known: Answers, unseen: Answers) -> list[dict[str, float | str]]:
    """One row per score: how well it finds errors and how well it finds the unseen domain."""
    is_unseen = np.repeat([False, True], [len(known.rows), len(unseen.rows)])
    return [
        {
            "score": name,
            "errors_auroc": auroc(of_known, ~known.correct),
            "unseen_auroc": auroc(np.concatenate([of_known, of_unseen]), is_unseen),
            "aurc": area_under_risk_coverage(of_known, known.correct),
        }
        for name, of_known, of_unseen in (
            ("total entropy", known.total_entropy, unseen.total_entropy),
            ("epistemic entropy", known.epistemic_entropy, unseen.epistemic_entropy),
            ("1 - confidence", 1 - known.confidence, 1 - unseen.confidence),
        )
    ]


def _grid(facts: Facts) -> Iterator[tuple[str, Sequence[Answer]]]:
    right = [row for row in facts.known.rows if row.is_correct]
    wrong = [row for row in facts.known.rows if not row.is_correct]
    for (title, count), rows in zip(GRID_ROWS, (right, wrong, list(facts.unseen.rows)), strict=True):
        yield title, _spread(rows, count)


def _spread(rows: Sequence[Answer], count: int) -> Sequence[Answer]:
    """`count` rows, evenly spread over the order of total entropy: the sure, the middling, the doubtful."""
    ordered = sorted(rows, key=lambda row: row.prediction.uncertainty.total_entropy_nats)
    if len(ordered) <= count:
        return ordered
    return [ordered[round(index)] for index in np.linspace(0, len(ordered) - 1, count)]


def _served_lineage(facts: Facts) -> dict[str, object]:
    """The served version, its updates, and its ancestors back to the initial parameters."""
    by_number = {version.version_number: version for version in facts.versions}
    served = served_version(facts)
    chain = [served]
    while (parent := chain[-1].parent_version) is not None:
        chain.append(by_number[parent])
    inputs = [
        {
            "site": facts.site_names[item.site_id],
            "weight": item.weight,
            "digest": item.digest,
            "n": item.num_examples,
        }
        for item in served.inputs
    ]
    return {"version": served, "inputs": inputs, "chain": chain}


def _data_url(answer: Answer) -> str:
    return "data:image/webp;base64," + base64.b64encode(answer.drawing.path.read_bytes()).decode()
