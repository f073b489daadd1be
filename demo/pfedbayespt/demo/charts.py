"""The report's plots, each a self-contained SVG text. Colours stay apart for colour-blind readers."""

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pfedbayespt.demo.facts import Curves
from pfedbayespt.demo.measures import Flags, Vector, risk_coverage

COLOURS = {"pFedBayesPT": "#0b6bcb", "shared prompt": "#c9730a", "alone": "#7a7f87"}
_STYLE: Any = {  # matplotlib types the keys one by one
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa1ab",
    "axes.grid": True,
    "grid.color": "#e4e7eb",
    "svg.fonttype": "none",
    "svg.hashsalt": "pfedbayespt",
}


def accuracy_by_round(curves: Curves, chance: float) -> str:
    """Return one panel per site; `curves` is method -> site -> (round number, accuracy) pairs."""
    sites = sorted({site for by_site in curves.values() for site in by_site})
    with mpl.rc_context(_STYLE):
        figure = _figure(3.6 * len(sites), 3.1)
        panels = figure.subplots(1, len(sites), sharey=True, squeeze=False)[0]
        for panel, site in zip(panels, sites, strict=True):
            for method, by_site in curves.items():
                rounds, accuracies = zip(*by_site[site], strict=True)
                panel.plot(
                    rounds, [100 * value for value in accuracies], color=COLOURS[method], label=method, lw=2
                )
            panel.axhline(100 * chance, color="#9aa1ab", lw=1, ls=":", label="chance")
            panel.set_title(site, loc="left", fontweight="bold")
            panel.set_xlabel("training round")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel("accuracy on the site's held-out images, %")
        panels[0].set_ylim(bottom=0)
        panels[-1].legend(frameon=False, loc="lower right")
        return _svg(figure)


def risk_by_coverage(scores: Mapping[str, Vector], correct: Flags) -> str:
    """Return the risk-coverage curve of each uncertainty score."""
    with mpl.rc_context(_STYLE):
        figure = _figure(5.2, 3.4)
        panel: Axes = figure.subplots()
        for (name, uncertainty), colour in zip(scores.items(), ("#0b6bcb", "#8b3fb5"), strict=True):
            coverage, risk = risk_coverage(uncertainty, correct)
            panel.plot(100 * coverage, 100 * risk, color=colour, lw=2, label=f"least {name} first")
        panel.axhline(100 * (~correct).mean(), color="#9aa1ab", lw=1, ls=":", label="in random order")
        panel.set(
            xlabel="share of images answered, %", ylabel="errors among them, %", xlim=(0, 100), ylim=(0, None)
        )
        panel.legend(frameon=False)
        return _svg(figure)


def doubt_by_origin(known: Vector, unseen: Vector, title: str) -> str:
    """Return the distributions of an uncertainty on the sites' own domains and on the unseen one."""
    with mpl.rc_context(_STYLE):
        figure = _figure(5.2, 3.4)
        panel: Axes = figure.subplots()
        span = (0.0, float(max(known.max(), unseen.max())))
        for values, colour, label in (
            (known, "#0b6bcb", "sites' domains"),
            (unseen, "#c0392b", "unseen domain"),
        ):
            panel.hist(values, bins=24, range=span, density=True, color=colour, alpha=0.55, label=label)
        panel.set(xlabel=f"{title}, nats", ylabel="density")
        panel.legend(frameon=False)
        return _svg(figure)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    """Return the figure as SVG text without the XML preamble, ready to stand in HTML."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
