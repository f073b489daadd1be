"""A site's head from a few images: what it finds, what it leaves alone."""

import pytest
import torch

from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import ConfigError, HeadConfig, InsertionConfig, ModelConfig, PosteriorConfig
from pfedbayespt.model.evaluation import evaluate
from pfedbayespt.model.parameters import load_shared_parameters, personal_parameters, shared_parameters
from pfedbayespt.model.personalisation import AdaptationConfig, adapt
from pfedbayespt.model.readout import cross_entropy, log_class_prior
from pfedbayespt.model.sources import InMemoryContexts, gather_statistics


def config(*, personal_residual: bool = True) -> ModelConfig:
    return ModelConfig(
        num_classes=3,
        insertion=InsertionConfig(num_blocks=2, prompt_length=2),
        posterior=PosteriorConfig(latent_dim=4, noise_dim=3, hidden_dim=8),
        head=HeadConfig(mid_block=3, personal_residual=personal_residual),
    )


def images_of(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """Noise around a brightness that is the class."""
    noise = torch.randn(len(labels), 3, 48, 48, generator=torch.Generator().manual_seed(seed))
    return noise + 0.5 * (labels[:, None, None, None] - 1)


@pytest.fixture(scope="module")
def make(backbone):
    def build(labels: torch.Tensor, seed: int = 0, **choices):
        model = build_classifier(config(**choices), backbone, torch.Generator().manual_seed(0))
        source = InMemoryContexts.encode(model.insertion, images_of(labels, seed).split(32), labels)
        load_shared_parameters(model, {**shared_parameters(model), **gather_statistics(model, source)})
        return model, source

    return build


BALANCED = torch.arange(24) % 3


def objective(model, source, adaptation: AdaptationConfig, decay: float) -> torch.Tensor:
    """The loss as the module's docstring writes it, by another route."""
    from pfedbayespt.model.prediction import draw_noise

    noise = draw_noise(list(range(len(source))), adaptation.num_samples, model.posterior.noise_width)
    logits = model.logits(source.batch(torch.arange(len(source))), noise)
    prior = log_class_prior(source.labels, 3) if adaptation.free_of_prior else None
    size = sum(parameter.square().sum() for parameter in model.readout.residual.parameters())
    return cross_entropy(logits, source.labels, prior).mean() + decay / 2 * size


@pytest.mark.parametrize(("kind", "decay"), [("residual", 0.03), ("head", 0.001)])
@pytest.mark.parametrize("free_of_prior", [False, True])
def test_the_tuned_head_is_the_minimum_of_the_stated_loss(make, kind, decay, free_of_prior) -> None:
    model, source = make(torch.tensor([0] * 12 + [1] * 8 + [2] * 4))
    adaptation = AdaptationConfig(kind, free_of_prior=free_of_prior)
    before = float(objective(model, source, adaptation, decay).detach())
    adapt(model, source, adaptation)
    loss = objective(model, source, adaptation, decay)
    gradient = torch.autograd.grad(loss, list(model.readout.residual.parameters()))
    assert float(loss.detach()) < 0.8 * before
    assert max(float(part.abs().max()) for part in gradient) < 2e-3, "a stationary point of a convex loss"


def test_everything_that_is_shared_is_left_alone(make) -> None:
    model, source = make(BALANCED)
    before = {name: array.tobytes() for name, array in shared_parameters(model).items()}
    adapt(model, source, AdaptationConfig())
    assert {name: array.tobytes() for name, array in shared_parameters(model).items()} == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert any(array.any() for array in personal_parameters(model).values())


def test_the_same_images_and_seed_give_the_same_head_whatever_was_there_before(make) -> None:
    heads = []
    for _ in range(2):
        model, source = make(BALANCED)
        heads.append(model)
        adapt(model, source, AdaptationConfig())
    adapt(heads[0], source, AdaptationConfig("head"))
    adapt(heads[0], source, AdaptationConfig())
    one, other = (personal_parameters(model) for model in heads)
    assert all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_a_few_images_per_class_help_on_images_it_never_saw(make) -> None:
    model, source = make(BALANCED)
    _, unseen = make(torch.arange(60) % 3, seed=1)
    before = evaluate(model, unseen, num_samples=2)
    adapt(model, source, AdaptationConfig())
    after = evaluate(model, unseen, num_samples=2)
    assert after.nll < before.nll
    assert after.accuracy > before.accuracy


def test_a_residual_stays_nearer_to_the_federations_head_than_a_head_of_its_own(make) -> None:
    sizes = []
    for kind in ("residual", "head"):
        model, source = make(BALANCED)
        adapt(model, source, AdaptationConfig(kind))
        sizes.append(float(model.readout.residual.weight.detach().norm()))
    assert sizes[0] < sizes[1]


def test_where_priors_are_carried_apart_the_head_learns_none(make) -> None:
    """Of images without any content, an unbalanced choice teaches a prior, and nothing else."""
    labels = torch.tensor([0] * 18 + [1] * 5 + [2] * 1)
    biases = {}
    for free_of_prior in (False, True):
        model, source = make(labels)
        same = InMemoryContexts(source.context.select(torch.zeros(24, dtype=torch.long)), labels)
        adapt(model, same, AdaptationConfig("head", free_of_prior=free_of_prior))
        logits = model.readout.residual(model.read_out(same.batch(torch.arange(1)), _draw(model, same)))
        biases[free_of_prior] = float((logits[0, 0, 0] - logits[0, 0, 2]).detach())
    assert biases[False] > 1.5
    assert abs(biases[True]) < 0.1


def _draw(model, source):
    noise = torch.zeros(1, 1, model.posterior.noise_width)
    return model.draw(source.batch(torch.arange(1)), noise)


def test_bad_requests_are_refused(make) -> None:
    model, source = make(BALANCED, personal_residual=False)
    with pytest.raises(ValueError, match="no personal residual"):
        adapt(model, source, AdaptationConfig())
    model, source = make(BALANCED)
    nothing = InMemoryContexts(source.context.select(torch.arange(0)), source.labels[:0])
    with pytest.raises(ValueError, match="no images"):
        adapt(model, nothing, AdaptationConfig())
    with pytest.raises(ConfigError, match="residual, head"):
        AdaptationConfig("tail")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="1 or more"):
        AdaptationConfig(num_samples=0)
