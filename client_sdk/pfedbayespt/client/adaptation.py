"""Personalising one model version at one site: k labelled images per class in, a head of the site's own out.

Rules:
1. What is tuned is the head alone (`pfedbayespt.model.personalisation`); it is kept beside the version that it was
   tuned from (`personal.py`) and never leaves this machine.
2. The images that are not tuned on say what it did, before and after; these figures are all that is reported.
3. A head that makes these images less likely is not kept, unless the caller insists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pfedbayespt.client import events
from pfedbayespt.client.contexts import DEFAULT_CACHE_BYTES
from pfedbayespt.client.errors import DatasetError
from pfedbayespt.client.personal import PersonalManifest, PersonalStore
from pfedbayespt.client.predictor import LocalPredictor
from pfedbayespt.client.workplace import Split, encoded
from pfedbayespt.model.personalisation import AdaptationConfig, HeadKind, adapt
from pfedbayespt.protocol import Evaluation


@dataclass(frozen=True)
class AdaptationReport:
    """What a personalisation did, in numbers.

    Attributes:
        model_version: the version it was tuned from.
        kind: of head.
        num_tuned_on: labelled images that it learnt from.
        before: the shared model on the other images.
        after: with the new head, on the same ones.
        is_kept: whether it is used from now on.
    """

    model_version: int
    kind: HeadKind
    num_tuned_on: int
    before: Evaluation
    after: Evaluation
    is_kept: bool


def choose_shots(labels: Sequence[int], shots: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the positions of `shots` random images per class, or all where it has fewer, and all the others."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist()
    left = dict.fromkeys(labels, shots)
    chosen = []
    for position in order:
        if left[labels[position]]:
            left[labels[position]] -= 1
            chosen.append(position)
    return sorted(chosen), sorted(set(order) - set(chosen))


def personalise(
    predictor: LocalPredictor,
    tuning: Split,
    held_out: Split,
    store: PersonalStore,
    config: AdaptationConfig,
    *,
    insist: bool,
) -> AdaptationReport:
    """Tune a head for the predictor's version, compare, and keep it if it helps or the caller insists.

    Args:
        predictor: of the version, with a personal head of zeros; it is tuned in place.
        tuning: labelled images to learn from.
        held_out: others, to compare on.
        store: where it is kept.
        config: how it is tuned.
        insist: keep it even if it does not help.

    Raises:
        DatasetError: there is nothing to compare on.
    """
    if not held_out.labels:
        raise DatasetError("no image is left to compare on; ask for fewer images per class, or pass others")
    model = predictor.model
    images = encoded(held_out, model, DEFAULT_CACHE_BYTES, events.unobserved)
    before = model.evaluate(images, predictor.class_prior, compare=False)
    adapt(model.classifier, encoded(tuning, model, 0, events.unobserved), config)
    after = model.evaluate(images, predictor.class_prior, compare=False)
    is_kept = insist or after.metrics["nll"] <= before.metrics["nll"]
    if is_kept:
        manifest = PersonalManifest(origin="adaptation", model_version=predictor.model_version)
        store.keep(model.personal_file(manifest))
    return AdaptationReport(predictor.model_version, config.kind, len(tuning.labels), before, after, is_kept)
