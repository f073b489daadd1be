"""Tables from the runs: CSV with every (seed, site), Markdown with means, paired differences and ranks.

Rules:
    1. Accuracy, NLL, Brier score and ECE are means over (seed, site); AUROC and AURC are of a seed's pooled sites.
    2. The best rival is that of highest mean accuracy: not ours, refitted or not, and no control of ours. Heads
       alone are a rival, though the product has them.
    3. Two methods are compared over the seeds that both have.
"""

import csv
import platform
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from catalogue import CONTROLS, OURS, OURS_REFITTED
from measures import paired
from store import Runs

Means = dict[str, dict[str, float]]
MEASURES = ("accuracy", "nll", "brier", "ece")
_HEADINGS = (
    "method",
    "accuracy %",
    "worst site",
    "unseen sites",
    "NLL",
    "ECE",
    "AUROC total / epistemic",
    "AURC",
    "seeds",
    "accuracy, ours minus it [95 %] (effect, p)",
    "NLL, ours minus it [95 %]",
)
_POOLED = ("auroc_total", "auroc_epistemic", "aurc")
_PAIRS = (
    (OURS, "FedAvg-VPT"),
    (OURS, "FedAvg-VPT + refit"),
    (OURS, "Fed3R"),
    (OURS, "ours with one prompt for all"),
    (OURS_REFITTED, "FedAvg-VPT + refit"),
    (OURS_REFITTED, "ours with one prompt for all + refit"),
    (OURS_REFITTED, "ours with no noise + refit"),
)
"""What is compared at the unseen sites too, and refitted with refitted."""
_PAIR_HEADINGS = "accuracy, difference [95 %] (effect, p) | NLL, difference [95 %] |"


def write_tables(runs: Runs, plan: str, out: Path) -> dict[str, Any]:
    """Write `<out>/<plan>.csv` and `.md`; return the summary with our lead over the best rival."""
    _write_csv(out / f"{plan}.csv", runs)
    methods = {name: summarise(by_seed) for name, by_seed in sorted(runs.items())}
    lines = [*_markdown(runs, methods), "", *_pairs(runs), *_novelty(runs)]
    (out / f"{plan}.md").write_text("\n".join(lines) + "\n")
    shown = {name: {m: row[m] for m in ("accuracy", "nll", "ece", "seeds")} for name, row in methods.items()}
    summary: dict[str, Any] = {"setting": plan, "methods": shown}
    rivals = [name for name in methods if name not in {OURS, OURS_REFITTED, *CONTROLS}]
    if OURS in runs and rivals:
        best = max(rivals, key=lambda name: methods[name]["accuracy"])
        lead = compare(runs, best)
        summary |= {
            "best_rival": best,
            "lead_over_best_rival": lead["mean"],
            "interval": None if np.isnan(lead["low"]) else [lead["low"], lead["high"]],
        }
    return summary


def write_overall(runs_of: Mapping[str, Runs], file: Path) -> None:
    """Write one table from the runs of several plans: every method under the plans that have it, and mean ranks.

    Ranks are over the plans, among the methods that all of them have, without the controls; ours with a refit and
    without are ranked each without the other. What one plan alone has is in its own table, and one plan alone has
    no such table at all.
    """
    runs = {plan: of for plan, of in runs_of.items() if of}
    if len(runs) < 2:
        return
    means = {plan: _means(of) for plan, of in runs.items()}
    common = set.intersection(*(set(rows) for rows in means.values())) - set(CONTROLS)
    accuracy, nll = (_mean_ranks(means, common, m, sign) for m, sign in (("accuracy", -1), ("nll", 1)))
    lines = [
        "Accuracy % / NLL, means over seeds and sites. Ranks: our rows each without the other; controls have none.",
        "",
        f"| method | {' | '.join(means)} | rank, accuracy | rank, NLL |",
        f"|---|{'---:|' * (len(means) + 2)}",
    ]
    counts = Counter(name for rows in means.values() for name in rows)
    names = [name for name, count in counts.items() if count > 1]
    for name in sorted(names, key=lambda n: (accuracy.get(n, np.inf), n)):
        cells = [_cell(rows.get(name)) for rows in means.values()]
        ranks = [f"{of[name]:.1f}" if name in of else "" for of in (accuracy, nll)]
        lines.append(f"| {' | '.join([name, *cells, *ranks])} |")
    file.write_text("\n".join([*lines, "", *_leads_by_setting(runs)]) + "\n")


def _leads_by_setting(runs: Mapping[str, Runs]) -> list[str]:
    """Return the table of pairs under every plan, at the sites."""
    lines = [
        f"| setting | pair | {_PAIR_HEADINGS}",
        "|---|---|---:|---:|",
    ]
    for plan, of in runs.items():
        for ours, other in _pairs_in(of):
            lines.append(f"| {plan} | {ours} minus {other} | {_difference(of, other, ours, 'sites')} |")
    return lines


def _mean_ranks(means: Mapping[str, Means], names: set[str], measure: str, sign: int) -> dict[str, float]:
    """Return the ranks among `names`: our two rows each without the other, rivals with the one without a refit."""
    ranks: dict[str, list[int]] = defaultdict(list)
    for rows in means.values():
        refitted, plain = (_ranks(rows, names - {other}, measure, sign) for other in (OURS, OURS_REFITTED))
        for name, rank in (refitted | plain).items():
            ranks[name].append(rank)
    return {name: float(np.mean(of)) for name, of in ranks.items()}


def _ranks(rows: Means, names: set[str], measure: str, sign: int) -> dict[str, int]:
    ranked = sorted(names, key=lambda name: (sign * rows[name][measure], name))
    return {name: rank for rank, name in enumerate(ranked, start=1)}


def _cell(row: Mapping[str, float] | None) -> str:
    return "" if row is None else f"{100 * row['accuracy']:.1f} / {row['nll']:.3f}"


def _means(runs: Runs) -> Means:
    """Return each method's mean measures over (seed, site)."""
    return {name: _site_means(by_seed) for name, by_seed in runs.items()}


def _site_means(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    runs = by_seed.values()
    return {m: float(np.mean([[site[m] for site in run["sites"]] for run in runs])) for m in MEASURES}


def compare(
    runs: Runs, other: str, measure: str = "accuracy", *, ours: str = OURS, at: str = "sites"
) -> dict[str, float]:
    """Return the paired difference of `ours` to another method over the seeds that both have.

    Args:
        runs: by method and seed.
        other: what is subtracted.
        measure: of a site.
        ours: what it is subtracted from.
        at: `sites` or `unseen`.
    """
    seeds = sorted(set(runs[ours]) & set(runs[other]))
    if not seeds:
        return dict.fromkeys(("mean", "low", "high", "effect", "p"), float("nan"))
    one, two = (np.array([[s[measure] for s in runs[n][seed][at]] for seed in seeds]) for n in (ours, other))
    return paired(one, two)


def summarise(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """Return the means of one method; not a number where it has no answer for sites that never trained."""
    runs = by_seed.values()
    row = _site_means(by_seed)
    row |= {m: float(np.mean([run["pooled"][m] for run in runs])) for m in _POOLED}
    row["worst_site"] = float(np.mean([min(s["accuracy"] for s in run["sites"]) for run in runs]))
    unseen = [s["accuracy"] for run in runs for s in run.get("unseen", ())]
    row["unseen"] = float(np.mean(unseen)) if unseen else float("nan")
    return row | {"seeds": len(by_seed)}


def _markdown(runs: Runs, methods: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        f"| {' | '.join(_HEADINGS)} |",
        f"|---|{'---:|' * (len(_HEADINGS) - 1)}",
    ]
    for name in sorted(methods, key=lambda n: -methods[n]["accuracy"]):
        m = methods[name]
        unseen = "" if np.isnan(m["unseen"]) else f"{100 * m['unseen']:.1f}"
        found = f"{m['auroc_total']:.3f} / {m['auroc_epistemic']:.3f}"
        lines.append(
            f"| {name} | {100 * m['accuracy']:.1f} | {100 * m['worst_site']:.1f} | {unseen} | {m['nll']:.3f} "
            f"| {m['ece']:.3f} | {found} | {m['aurc']:.3f} | {m['seeds']} | {_leads(runs, name)} |"
        )
    return lines


def _pairs_in(runs: Runs) -> list[tuple[str, str]]:
    """Return the pairs whose both sides have run."""
    return [pair for pair in _PAIRS if all(name in runs for name in pair)]


def _pairs(runs: Runs) -> list[str]:
    """Return the table of pairs, at the sites and, where both sides answered there, at the unseen ones."""
    lines = [f"| pair | where | {_PAIR_HEADINGS}", "|---|---|---:|---:|"]
    for ours, other in _pairs_in(runs):
        has_unseen = all(run.get("unseen") for name in (ours, other) for run in runs[name].values())
        for at, where in (("sites", "sites"), ("unseen", "unseen sites"))[: 1 + has_unseen]:
            lines.append(f"| {ours} minus {other} | {where} | {_difference(runs, other, ours, at)} |")
    return lines


def _novelty(runs: Runs) -> list[str]:
    """Return how well doubt tells images of a domain that no site trains on; no lines where there is none."""
    rows = []
    for name, by_seed in sorted(runs.items()):
        found = [run["novelty"] for run in by_seed.values() if "novelty" in run]
        if found:
            total, epistemic = (np.mean([of[m] for of in found]) for m in ("auroc_total", "auroc_epistemic"))
            rows.append(f"| {name} | {total:.3f} | {epistemic:.3f} |")
    heading = "| AUROC for images of the domain that no site trains on | total | epistemic |"
    return ["", heading, "|---|---:|---:|", *rows] if rows else []


def _leads(runs: Runs, name: str) -> str:
    if OURS not in runs or name == OURS:
        return "|"
    return _difference(runs, name, OURS, "sites")


def _difference(runs: Runs, other: str, ours: str, at: str) -> str:
    a, n = (compare(runs, other, measure, ours=ours, at=at) for measure in ("accuracy", "nll"))
    accuracy = f"{100 * a['mean']:+.1f} [{100 * a['low']:+.1f}, {100 * a['high']:+.1f}]"
    nll = f"{n['mean']:+.3f} [{n['low']:+.3f}, {n['high']:+.3f}]"
    return f"{accuracy} ({a['effect']:+.2f}, {a['p']:.3f}) | {nll}"


def _write_csv(file: Path, runs: Runs) -> None:
    seeds = sorted({seed for by_seed in runs.values() for seed in by_seed})
    with file.open("w", newline="") as stream:
        stream.write(f"# command: make bench-method; seeds: {', '.join(map(str, seeds))}\n")
        stream.write(f"# written on {_machine()}\n")
        writer = csv.writer(stream)
        writer.writerow(["method", "seed", "site", *MEASURES])
        for name, by_seed in sorted(runs.items()):
            for seed, run in sorted(by_seed.items()):
                for site, row in enumerate(run["sites"]):
                    writer.writerow([name, seed, site, *(round(row[m], 6) for m in MEASURES)])


def _machine() -> str:
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    return f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} thread(s); {versions}"
