"""A trunk in fewer bits: nearly the same answers, and everything after the trunk still in float32."""

from pathlib import Path

import pytest
import torch

from pfedbayespt.model.backbone import Backbone, load_backbone, random_backbone
from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import InsertionConfig, ModelConfig
from pfedbayespt.model.precision import Precision, in_precision
from pfedbayespt.model.prediction import Predictive, draw_noise, predict

IMAGES = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    file: Path = tmp_path_factory.mktemp("backbone") / "tiny.safetensors"
    return load_backbone(random_backbone(file), file)


def answers(backbone: Backbone, kind: str) -> Predictive:
    """The answers of a head that tells classes apart; the same head for every trunk."""
    generator = torch.Generator().manual_seed(1)
    config = ModelConfig(3, InsertionConfig(kind, 2, 2))  # type: ignore[arg-type]
    model = build_classifier(config, backbone, generator).eval()
    with torch.no_grad():
        model.readout.head.weight.copy_(
            torch.randn(model.readout.head.weight.shape, generator=generator) / 40
        )
    return predict(model, model.encode(IMAGES), draw_noise([1, 2, 3], 8, model.posterior.noise_width))


@pytest.mark.parametrize("kind", ["prefix", "hybrid", "twoway", "midway"])
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_probabilities_come_close_to_those_of_float32_and_stay_in_it(
    backbone: Backbone, precision: Precision, kind: str
) -> None:
    exact, low = answers(backbone, kind), answers(in_precision(backbone, precision), kind)
    for name in ("probabilities", "sample_probabilities", "total", "epistemic", "prompt_variance"):
        assert getattr(low, name).dtype == torch.float32
    difference = (low.probabilities - exact.probabilities).abs().max()
    assert 0 < difference < 0.05
    assert torch.equal(low.prompt_variance, exact.prompt_variance) or low.prompt_variance.allclose(
        exact.prompt_variance, rtol=0.2
    )


def test_the_trunk_that_was_given_is_unchanged(backbone: Backbone) -> None:
    before = backbone(IMAGES)
    for precision in ("bfloat16", "int8"):
        assert in_precision(backbone, precision) is not backbone
    assert torch.equal(backbone(IMAGES), before)
    assert in_precision(backbone, "float32") is backbone


def test_another_precision_is_refused_naming_those_allowed(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="'float8'; allowed: float32, bfloat16, int8"):
        in_precision(backbone, "float8")  # type: ignore[arg-type]
