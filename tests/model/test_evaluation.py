"""Measures of probabilities, with known values, and an evaluation that does not depend on how it is batched."""

import math
import re

import numpy as np
import pytest
import torch

from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import InsertionConfig, ModelConfig, PosteriorConfig
from pfedbayespt.model.evaluation import (
    brier_score,
    calibration_error,
    evaluate,
    negative_log_likelihood,
)
from pfedbayespt.model.prediction import entropy
from pfedbayespt.model.sources import InMemoryContexts

PROBABILITIES = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
LABELS = torch.tensor([0, 2, 2])


@pytest.fixture(scope="module")
def model(backbone):
    config = ModelConfig(
        num_classes=3,
        insertion=InsertionConfig(num_blocks=2, prompt_length=2),
        posterior=PosteriorConfig(latent_dim=4, noise_dim=2, hidden_dim=8),
    )
    model = build_classifier(config, backbone, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.readout.head.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="module")
def source(model, backbone_config):
    side = backbone_config.image_size_pixels
    images = torch.randn(7, 3, side, side, generator=torch.Generator().manual_seed(2))
    return InMemoryContexts.encode(model.insertion, images.split(4), torch.tensor([0, 1, 2, 0, 1, 2, 0]))


def test_the_measures_have_known_values():
    nll = -(math.log(0.7) + math.log(0.1) + math.log(0.4)) / 3
    assert negative_log_likelihood(PROBABILITIES, LABELS) == pytest.approx(nll, rel=1e-6)
    brier = ((0.09 + 0.04 + 0.01) + (0.01 + 0.64 + 0.81) + (0.09 + 0.09 + 0.36)) / 3
    assert brier_score(PROBABILITIES, LABELS) == pytest.approx(brier, rel=1e-6)
    assert calibration_error(PROBABILITIES, LABELS) == pytest.approx((0.3 + 0.8 + 0.6) / 3, rel=1e-6)


def test_calibration_is_judged_within_bins_not_image_by_image():
    probabilities = torch.tensor([[0.75, 0.25]] * 4)
    assert calibration_error(probabilities, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.0, abs=1e-6)
    assert calibration_error(torch.tensor([[1.0, 0.0]]), torch.tensor([0])) == 0.0


def test_certainty_in_the_wrong_class_is_a_finite_loss():
    assert negative_log_likelihood(torch.tensor([[1.0, 0.0]]), torch.tensor([1])) == pytest.approx(
        27.63, abs=0.01
    )


def test_an_evaluation_does_not_depend_on_the_batch_size(model, source):
    whole, parts = (
        evaluate(model, source, num_samples=4),
        evaluate(model, source, num_samples=4, batch_size=3),
    )
    assert whole.num_examples == 7
    assert whole.accuracy == parts.accuracy
    assert whole.nll == pytest.approx(parts.nll, rel=1e-5)
    assert evaluate(model, source, num_samples=4, seed=1).nll != whole.nll


def test_metrics_have_names_and_values_fit_for_the_wire(model, source):
    metrics = evaluate(model, source, num_samples=2).to_metrics()
    assert set(metrics) == {"accuracy", "nll", "brier", "ece"}
    for name, value in metrics.items():
        assert re.fullmatch(r"^[a-z][a-z0-9_]{0,63}$", name)
        assert math.isfinite(value)


def test_probabilities_and_entropies_of_each_image_come_on_request(model, source):
    assert evaluate(model, source, num_samples=2).per_image is None
    result = evaluate(model, source, num_samples=2, batch_size=3, per_image=True)
    images = result.per_image
    assert images.probabilities.shape == (7, 3)
    assert images.epistemic.shape == (7,)
    np.testing.assert_allclose(images.total, entropy(torch.from_numpy(images.probabilities)), atol=1e-6)
    assert result.nll == pytest.approx(
        negative_log_likelihood(torch.from_numpy(images.probabilities), source.labels)
    )


def test_a_class_prior_changes_the_probabilities(model, source):
    prior = torch.tensor([1.0, 0.0, 0.0])
    result = evaluate(model, source, num_samples=2, class_prior=prior)
    assert result.accuracy == pytest.approx(3 / 7)


def test_no_images_are_refused(model, source):
    empty = InMemoryContexts(source.batch(torch.arange(0)), source.labels[:0])
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluate(model, empty)
