"""Plots of one plan, from its runs: accuracy by domain, reliability, risk and coverage, gain against H(rho)."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from catalogue import CONTROLS, OURS
from matplotlib import pyplot
from matplotlib.axes import Axes
from report import MEASURES, summarise
from store import Runs

matplotlib.use("Agg")
_RIVALS = ("FedAvg-VPT", "probe")


def draw_plots(runs: Runs, plan: str, domain_names: tuple[str, ...], out: Path) -> None:
    """Write `<out>/<plan>.png` with four panels, and `<out>/<plan>-ablations.png` where controls were run."""
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
    shown = [name for name in (OURS, *_RIVALS, "ours with one prompt for all") if name in runs]
    _domains(axes[0, 0], runs, shown, domain_names)
    _reliability(axes[0, 1], runs, shown)
    _risk(axes[1, 0], runs, shown)
    _gain(axes[1, 1], runs)
    figure.suptitle(plan)
    figure.savefig(out / f"{plan}.png", dpi=80)
    pyplot.close(figure)
    _ablations(runs, plan, out)


def _domains(axes: Axes, runs: Runs, shown: list[str], domain_names: tuple[str, ...]) -> None:
    width = 0.8 / max(1, len(shown))
    for place, name in enumerate(shown):
        count, right = summed(runs, name, "domains").T
        axes.bar(np.arange(len(count)) + place * width, 100 * right / np.maximum(count, 1), width, label=name)
    axes.set_xticks(np.arange(len(domain_names)) + 0.4 - width / 2, domain_names, rotation=20)
    axes.set_ylabel("accuracy %")
    axes.legend(fontsize=8)


def _reliability(axes: Axes, runs: Runs, shown: list[str]) -> None:
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name in shown:
        count, confidence, right = summed(runs, name, "reliability").T
        held = count >= 20
        axes.plot(confidence[held] / count[held], right[held] / count[held], marker="o", label=name)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share right")


def _risk(axes: Axes, runs: Runs, shown: list[str]) -> None:
    for name in shown:
        share, risk = np.mean([run["curves"]["risk"] for run in runs[name].values()], axis=0).T
        axes.plot(100 * share, 100 * risk, label=name)
    axes.set_xlabel("answered, % (least total entropy first)")
    axes.set_ylabel("errors among them, %")


def _gain(axes: Axes, runs: Runs) -> None:
    """Draw, for each (seed, site), our lead over prompt tuning against how mixed the site is."""
    rival = _RIVALS[0]
    for seed in sorted(set(runs.get(OURS, {})) & set(runs.get(rival, {}))):
        ours, theirs = runs[OURS][seed], runs[rival][seed]
        mixtures = np.array(ours["mixtures"])
        entropy = -(mixtures * np.log(np.maximum(mixtures, 1e-12))).sum(1)
        gain = [
            100 * (a["accuracy"] - b["accuracy"]) for a, b in zip(ours["sites"], theirs["sites"], strict=True)
        ]
        axes.scatter(entropy, gain, s=12, label=f"seed {seed}")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("H(rho) of the site, nats")
    axes.set_ylabel(f"accuracy, ours minus {rival}")


def _ablations(runs: Runs, plan: str, out: Path) -> None:
    names = [name for name in (OURS, *CONTROLS) if name in runs]
    if len(names) < 3:
        return
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.5), layout="constrained", sharey=True)
    for panel, measure in zip(axes, MEASURES[:2], strict=True):
        panel.plot([summarise(runs[name])[measure] for name in names], range(len(names)), "o")
        panel.set_yticks(range(len(names)), names)
        panel.set_xlabel(measure)
    figure.savefig(out / f"{plan}-ablations.png", dpi=80)
    pyplot.close(figure)


def summed(runs: Runs, name: str, curve: str) -> Any:
    """Add the runs' tables row by row; a run without images of the last domains has fewer rows."""
    tables = [np.array(run["curves"][curve], float) for run in runs[name].values()]
    longest = max(len(table) for table in tables)
    return sum(np.pad(table, ((0, longest - len(table)), (0, 0))) for table in tables)
