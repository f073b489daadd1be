"""Without prompts the head reads the frozen trunk, and rounds fit it in closed form or by steps."""

from dataclasses import replace

import pytest
import torch

from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import (
    ConfigError,
    HeadConfig,
    InsertionConfig,
    ModelConfig,
    PosteriorConfig,
    TrainingConfig,
)
from pfedbayespt.model.cross_fitting import fitted_heads, folds_of
from pfedbayespt.model.insertion import build_insertion
from pfedbayespt.model.parameters import difference, shared_parameters
from pfedbayespt.model.prediction import draw_noise, predict
from pfedbayespt.model.sources import InMemoryContexts
from pfedbayespt.model.training import train_round

C = 3
HEAD = HeadConfig(mid_block=3, cross_fit_folds=2)
STATISTICS = {
    f"statistics.{of}.{moment}" for of in ("features", "readout") for moment in ("mean", "second_moment")
}


def build(backbone, head=HEAD):
    config = ModelConfig(C, InsertionConfig("none"), PosteriorConfig("shared"), head)
    return build_classifier(config, backbone, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def site(backbone) -> InMemoryContexts:
    images = torch.randn(24, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    return InMemoryContexts.encode(build(backbone).insertion, [images], torch.arange(24) % C)


def after_round(model, site, **options):
    metrics = train_round(model, site, TrainingConfig(**options), round_number=1, num_rounds=3, seed=1)
    return metrics, shared_parameters(model)


def test_the_read_out_is_what_other_insertions_have_without_a_prompt(backbone64, images):
    images = images.double()
    read = [
        insertion.unprompted(insertion.encode(images))
        for insertion in (build_insertion(InsertionConfig(kind), backbone64) for kind in ("none", "prefix"))
    ]
    torch.testing.assert_close(*read)


def test_every_sample_is_that_read_out_and_a_prompt_has_no_numbers(backbone, images):
    insertion = build_insertion(InsertionConfig("none"), backbone)
    context = insertion.encode(images)
    prompt = insertion.initial_prompt(torch.Generator())
    assert prompt.shape == insertion.prompt_scale().shape == (0,)
    drawn = prompt.expand(len(images), 4, -1)
    readout = insertion.decode(context, drawn, drawn[:, 0])
    assert torch.equal(readout, insertion.unprompted(context)[:, None].expand(-1, 4, -1))


def test_a_site_shares_one_head_and_its_statistics(backbone):
    assert set(shared_parameters(build(backbone))) == STATISTICS | {"head.weight", "head.bias"}


def test_every_round_fits_the_one_head_in_closed_form(backbone, site):
    model = build(backbone)
    metrics, fitted = after_round(model, site, local_epochs=3)
    readout = model.readout_moments(site.context.readout)
    zero = {name: torch.zeros_like(value) for name, value in model.readout.named_parameters()}
    expected = fitted_heads(HEAD, readout, site.labels, folds_of(site.labels, 2), zero)
    assert set(expected) == {"head.weight", "head.bias"}
    for name, value in expected.items():
        torch.testing.assert_close(torch.from_numpy(fitted[name]), value)
    assert metrics.gradient_norm == metrics.kl == metrics.pull == 0.0
    assert metrics.nll == pytest.approx(torch.tensor(C).log().item())  # of the head that the round began with


def test_a_head_that_is_trained_along_takes_steps(backbone, site):
    model = build(backbone, replace(HEAD, cross_fit_folds=0))
    before = shared_parameters(model)
    metrics, after = after_round(model, site, batch_size=8)
    assert difference(after, before)["head.weight"].any()
    assert metrics.gradient_norm > 0.0


def test_an_answer_has_no_doubt_about_prompts(backbone, site):
    model = build(backbone)
    after_round(model, site)
    context = site.batch(torch.arange(5))
    answer = predict(model, context, draw_noise([7] * 5, 4, model.posterior.noise_width))
    assert not answer.prompt_variance.any()
    assert answer.epistemic.abs().max() < 1e-6
    assert answer.probabilities.sum(-1).allclose(torch.ones(5))


def test_a_posterior_over_no_prompts_is_refused():
    with pytest.raises(ConfigError, match="family is 'semi_implicit'; allowed with InsertionConfig"):
        ModelConfig(C, InsertionConfig("none"))
