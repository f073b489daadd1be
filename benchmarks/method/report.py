"""Tables from the runs on disk: CSV with every (seed, site), Markdown with means and paired differences."""

import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from measures import paired

OURS = "pFedBayesPT"
CONTROLS = {"deterministic", "deterministic+dropout", "gaussian", "K=0", "beta=0", "blind", "shuffled"}
_MEASURES = ("accuracy", "nll", "brier", "ece")


def write_tables(out: Path, setting: str) -> dict[str, object]:
    """Write `<out>/<setting>.csv` and `.md`; return the summary with our lead over the best rival."""
    runs = _runs(out / setting)
    _write_csv(out / f"{setting}.csv", runs)
    methods = {name: _summary(by_seed) for name, by_seed in sorted(runs.items())}
    summary: dict[str, object] = {"setting": setting, "methods": methods}
    lines = _markdown(runs, methods)
    rivals = [name for name in methods if name != OURS and name not in CONTROLS]
    if OURS in runs and rivals:
        best = max(rivals, key=lambda name: methods[name]["accuracy"])
        lead = compare(runs, best)
        summary |= {
            "best_rival": best,
            "lead_over_best_rival": lead["mean"],
            "interval": [lead["low"], lead["high"]],
        }
    (out / f"{setting}.md").write_text("\n".join(lines) + "\n")
    return summary


def compare(runs: dict[str, dict[int, dict]], other: str, measure: str = "accuracy") -> dict[str, float]:
    """Return our paired difference to another method over the seeds that both have."""
    seeds = sorted(set(runs[OURS]) & set(runs[other]))
    if not seeds:
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "effect": float("nan")}
    ours, theirs = (
        np.array([[s[measure] for s in runs[n][seed]["sites"]] for seed in seeds]) for n in (OURS, other)
    )
    return paired(ours, theirs)


def _runs(folder: Path) -> dict[str, dict[int, dict]]:
    runs: dict[str, dict[int, dict]] = defaultdict(dict)
    for file in sorted(folder.glob("*/*.json")):
        run = json.loads(file.read_text())
        runs[run["method"]][run["seed"]] = run
    return dict(runs)


def _summary(by_seed: dict[int, dict]) -> dict[str, float]:
    means = {m: float(np.mean([[s[m] for s in run["sites"]] for run in by_seed.values()])) for m in _MEASURES}
    worst = float(np.mean([min(s["accuracy"] for s in run["sites"]) for run in by_seed.values()]))
    pooled = {
        m: float(np.mean([run["pooled"][m] for run in by_seed.values()]))
        for m in ("auroc_total", "auroc_epistemic")
    }
    return means | pooled | {"worst_site": worst, "seeds": len(by_seed)}


def _markdown(runs: dict[str, dict[int, dict]], methods: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        "| method | accuracy % | worst site | NLL | ECE | AUROC total / epistemic | seeds | ours minus it [95 %] |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in sorted(methods, key=lambda n: -methods[n]["accuracy"]):
        m = methods[name]
        lead = ""
        if OURS in runs and name != OURS:
            d = compare(runs, name)
            lead = f"{100 * d['mean']:+.1f} [{100 * d['low']:+.1f}, {100 * d['high']:+.1f}]"
        lines.append(
            f"| {name} | {100 * m['accuracy']:.1f} | {100 * m['worst_site']:.1f} | {m['nll']:.3f} | {m['ece']:.3f} "
            f"| {m['auroc_total']:.3f} / {m['auroc_epistemic']:.3f} | {m['seeds']} | {lead} |"
        )
    return lines


def _write_csv(file: Path, runs: dict[str, dict[int, dict]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["method", "seed", "site", *_MEASURES])
        for name, by_seed in sorted(runs.items()):
            for seed, run in sorted(by_seed.items()):
                for site, row in enumerate(run["sites"]):
                    writer.writerow([name, seed, site, *(round(row[m], 6) for m in _MEASURES)])
