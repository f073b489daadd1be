"""Training one round at a site: what learns, what never changes, and what is the same again next time."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import (
    HeadConfig,
    InsertionConfig,
    ModelConfig,
    PosteriorConfig,
    TrainingConfig,
)
from pfedbayespt.model.evaluation import evaluate
from pfedbayespt.model.parameters import (
    difference,
    initial_parameters,
    load_shared_parameters,
    personal_parameters,
    shared_parameters,
)
from pfedbayespt.model.sources import InMemoryContexts, gather_statistics
from pfedbayespt.model.training import (
    TrainingDivergedError,
    init,
    learning_rate_share,
    train_round,
    update,
)

NUM_CLASSES = 4
CONFIG = ModelConfig(
    num_classes=NUM_CLASSES,
    insertion=InsertionConfig(num_blocks=2, prompt_length=2),
    posterior=PosteriorConfig(latent_dim=6, noise_dim=3, hidden_dim=12, dropout=0.1),
    head=HeadConfig(mid_block=3),
)
TRAINING = TrainingConfig(local_epochs=2, batch_size=16, num_mixing_samples=4, beta_warmup_rounds=0)
ROUND = {"round_number": 2, "num_rounds": None, "seed": 1}


def make_images(num_images, side, seed, classes=range(NUM_CLASSES)):
    """Noisy gratings whose direction is the class, in a random colour that is not."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(list(classes))[torch.arange(num_images) % len(classes)]
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = labels * math.pi / NUM_CLASSES
    along = angles.cos()[:, None, None] * columns + angles.sin()[:, None, None] * rows
    phases = torch.rand(num_images, 1, 1, generator=generator) * 6
    colours = torch.rand(num_images, 3, 1, 1, generator=generator) + 0.5
    noise = 0.3 * torch.randn(num_images, 3, side, side, generator=generator)
    return colours * (0.9 * along + phases).sin()[:, None] + noise, labels


@pytest.fixture(scope="module")
def encode(backbone, backbone_config):
    insertion = build_classifier(CONFIG, backbone, torch.Generator().manual_seed(0)).insertion

    def build(num_images, seed, **options):
        images, labels = make_images(num_images, backbone_config.image_size_pixels, seed, **options)
        return InMemoryContexts.encode(insertion, images.split(32), labels)

    return build


@pytest.fixture(scope="module")
def site(encode):
    return encode(96, seed=1)


@pytest.fixture(scope="module")
def held_out(encode):
    return encode(96, seed=2)


@pytest.fixture(scope="module")
def base(backbone, site):
    return {**initial_parameters(CONFIG, backbone, seed=0), **statistics(backbone, site)}


def statistics(backbone, source):
    return gather_statistics(build_classifier(CONFIG, backbone, torch.Generator().manual_seed(0)), source)


def build(backbone, base=None, **parts):
    model = build_classifier(replace(CONFIG, **parts), backbone, torch.Generator().manual_seed(0))
    if base is not None:
        shared = shared_parameters(model)
        load_shared_parameters(model, {name: base[name] for name in shared})
    return model


def trained(backbone, base, source, config=TRAINING, *, parts=None, **round_options):
    model = build(backbone, base, **(parts or {}))
    metrics = train_round(model, source, config, **{**ROUND, **round_options})
    return model, metrics


def same_bytes(one, other):
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_training_beats_the_zero_head_clearly_on_images_it_never_saw(backbone, base, site, held_out):
    model = build(backbone, base)
    before = evaluate(model, held_out, num_samples=4)
    assert before.nll == pytest.approx(math.log(NUM_CLASSES), rel=1e-4)
    for number in range(1, 4):
        train_round(model, site, replace(TRAINING, local_epochs=3), round_number=number, num_rounds=3, seed=1)
    after = evaluate(model, held_out, num_samples=4)
    assert after.accuracy > 0.6
    assert after.nll < 0.8 * before.nll


def test_two_sites_that_see_different_classes_learn_all_of_them_together(backbone, base, encode, held_out):
    sites = [encode(64, seed=5, classes=(0, 1)), encode(64, seed=6, classes=(2, 3))]
    parameters = base
    for number in range(1, 7):
        deltas = []
        for seed, source in enumerate(sites):
            model, _ = trained(backbone, parameters, source, round_number=number, seed=seed)
            deltas.append(difference(shared_parameters(model), parameters))
        parameters = {name: parameters[name] + (deltas[0][name] + deltas[1][name]) / 2 for name in parameters}
    together = evaluate(build(backbone, parameters), held_out, num_samples=4)
    # Alone, a site has no reason to tell the classes it never saw from each other: 3 of 4 is all it can reach.
    alone, _ = trained(backbone, base, sites[0], replace(TRAINING, local_epochs=12))
    assert evaluate(alone, held_out, num_samples=4).accuracy <= 0.75
    assert together.accuracy > 0.85


def test_the_update_of_identical_sites_is_that_of_one(backbone, base, site):
    deltas = [difference(shared_parameters(trained(backbone, base, site)[0]), base) for _ in range(3)]
    for name, delta in deltas[0].items():
        mean = np.average([other[name] for other in deltas], axis=0, weights=[3, 1, 2])
        np.testing.assert_allclose(mean, delta, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", ["semi_implicit", "gaussian", "deterministic", "shared"])
@pytest.mark.parametrize("latent", ["lowrank", "token", "full"])
def test_every_family_and_latent_lowers_its_loss(backbone, base, site, family, latent):
    posterior = replace(CONFIG.posterior, family=family, latent=latent, prompt_scale=0.1)
    model = build(backbone, posterior=posterior)
    load_shared_parameters(model, {**shared_parameters(model), **statistics(backbone, site)})
    losses = []
    train_round(
        model,
        site,
        replace(TRAINING, local_epochs=3),
        **ROUND,
        on_epoch=lambda epoch, metrics: losses.append((epoch, metrics.loss)),
    )
    assert [epoch for epoch, _ in losses] == [1, 2, 3]
    assert losses[-1][1] < losses[0][1]


@pytest.mark.parametrize("kind", ["twoway", "prefix", "hybrid"])
def test_every_insertion_sends_gradient_to_all_that_is_shared(backbone, backbone_config, kind):
    model = build(backbone, insertion=InsertionConfig(kind=kind, num_blocks=2, prompt_length=2))
    images, labels = make_images(16, backbone_config.image_size_pixels, seed=1)
    source = InMemoryContexts.encode(model.insertion, [images], labels)
    before = shared_parameters(model)
    train_round(model, source, TRAINING, **ROUND)
    for name, moved in difference(shared_parameters(model), before).items():
        assert (np.abs(moved).max() == 0) == name.startswith("statistics."), name


def test_a_step_moves_every_trained_parameter_and_never_the_trunk(backbone, base, site):
    model = build(backbone, base)
    trunk = {name: value.clone() for name, value in backbone.state_dict().items()}
    train_round(model, site, TRAINING, **ROUND)
    for name, moved in difference(shared_parameters(model), base).items():
        assert (np.abs(moved).max() == 0) == name.startswith("statistics."), name
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, trunk[name])
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize("estimator", ["total", "path"])
def test_the_same_seeds_give_the_same_bytes_dropout_included(backbone, base, site, estimator):
    config = replace(TRAINING, gradient_estimator=estimator)
    torch.manual_seed(0)
    first, first_metrics = trained(backbone, base, site, config)
    torch.manual_seed(99)  # the global generator has no say
    again, again_metrics = trained(backbone, base, site, config)
    assert same_bytes(shared_parameters(first), shared_parameters(again))
    assert first_metrics == again_metrics


@pytest.mark.parametrize("other", [{"seed": 2}, {"round_number": 3}])
def test_another_site_or_round_takes_another_path(backbone, base, site, other):
    first, second = trained(backbone, base, site)[0], trained(backbone, base, site, **other)[0]
    assert not same_bytes(shared_parameters(first), shared_parameters(second))


def test_the_federations_seed_counts_too(backbone, base, site):
    first, second = (
        trained(backbone, base, site)[0],
        trained(backbone, base, site, replace(TRAINING, seed=7))[0],
    )
    assert not same_bytes(shared_parameters(first), shared_parameters(second))


@pytest.mark.parametrize("label_shift", [False, True])
def test_what_leaves_a_site_is_the_same_bytes_with_and_without_a_residual(backbone, base, site, label_shift):
    heads = [HeadConfig(mid_block=3, label_shift=label_shift, personal_residual=on) for on in (True, False)]
    with_residual, without = (trained(backbone, base, site, parts={"head": head})[0] for head in heads)
    assert same_bytes(shared_parameters(with_residual), shared_parameters(without))
    assert np.abs(personal_parameters(with_residual)["residual.weight"]).max() > 0


def test_a_balanced_head_leaves_the_classes_it_never_saw_alone(backbone, base, encode):
    source = encode(64, seed=5, classes=(0, 1))

    def bias_of_absent(label_shift):
        parts = {"head": HeadConfig(mid_block=3, label_shift=label_shift)}
        return shared_parameters(trained(backbone, base, source, parts=parts)[0])["head.bias"][2:]

    plain, balanced = bias_of_absent(label_shift=False), bias_of_absent(label_shift=True)
    assert (plain < 0).all()
    assert np.abs(balanced).max() < np.abs(plain).min()


def test_a_heavy_prior_holds_the_posterior_and_the_prompt(backbone, base, site):
    _, free = trained(backbone, base, site, replace(TRAINING, beta=0.0, local_epochs=6))
    _, held = trained(backbone, base, site, replace(TRAINING, beta=100.0, local_epochs=6))
    assert held.kl < 0.5 * free.kl
    assert held.pull < 0.5 * free.pull


def test_the_prior_is_centred_on_the_prompt_of_the_round_start(backbone, base, site):
    moved = {**base, "prompt.mean": base["prompt.mean"] + 5.0}
    model = build(backbone, moved)
    state = init(model, site.labels, TRAINING, **ROUND)
    indices = torch.arange(8)
    pulls = [update(model, state, site.batch(indices), site.labels[indices])["pull"].item() for _ in range(3)]
    assert pulls[0] == 0.0
    assert pulls[2] > 0.0  # the first step moves the head alone: through a head of zeros no gradient comes


def test_a_shared_prompt_has_neither_kl_nor_pull(backbone, base, site):
    parts = {"posterior": replace(CONFIG.posterior, family="shared")}
    _, metrics = trained(backbone, base, site, replace(TRAINING, beta=1.0), parts=parts)
    assert (metrics.kl, metrics.gain, metrics.pull, metrics.implicit_spread) == (0.0, 0.0, 0.0, 0.0)
    assert metrics.loss == metrics.nll


def test_without_mixing_noise_nothing_is_gained(backbone, base, site):
    parts = {"posterior": replace(CONFIG.posterior, family="gaussian")}
    assert trained(backbone, base, site, parts=parts)[1].gain == 0.0
    spread = {**base, "generator.output.weight": 20 * base["generator.output.weight"]}
    semi_implicit = trained(backbone, spread, site)[1]
    assert 0.0 < semi_implicit.gain < math.log(5)
    assert semi_implicit.bound_gap > 0.0


def test_metrics_fit_the_wire(backbone, base, site):
    _, metrics = trained(backbone, base, site)
    assert metrics.num_examples == 96
    assert len(metrics.to_metrics()) <= 32
    for name, value in metrics.to_metrics().items():
        assert re.fullmatch(r"^[a-z][a-z0-9_]{0,63}$", name)
        assert math.isfinite(value)
    assert metrics.kl_per_dimension == pytest.approx(metrics.kl / 6)


def test_learning_rates_fall_along_half_a_cosine_where_the_number_of_rounds_is_known():
    config = replace(TRAINING, final_learning_rate_ratio=0.1)
    shares = [learning_rate_share(config, number, 5) for number in (1, 3, 5, 6)]
    assert shares == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert learning_rate_share(config, 5, None) == 1.0
    assert learning_rate_share(replace(TRAINING, final_learning_rate_ratio=1.0), 5, 5) == 1.0
    assert learning_rate_share(replace(config, head_rounds=3), 5, 8) == pytest.approx(0.1)


def test_statistics_of_two_sites_pool_to_those_of_all_their_images(backbone, encode):
    sites = [encode(20, seed=1), encode(60, seed=2)]
    parts = [statistics(backbone, source) for source in sites]
    insertion = build(backbone).insertion
    features = torch.cat([insertion.unprompted(source.context) for source in sites]).double()
    pooled = {name: (20 * parts[0][name] + 60 * parts[1][name]) / 80 for name in parts[0]}
    np.testing.assert_allclose(pooled["statistics.readout.mean"], features.mean(0), rtol=0, atol=1e-12)
    expected = features.square().mean(0)
    np.testing.assert_allclose(pooled["statistics.readout.second_moment"], expected, rtol=1e-12)


def test_statistics_are_the_shared_parameters_of_the_same_name(backbone, base, site):
    assert {name for name in base if name.startswith("statistics.")} == set(statistics(backbone, site))


def test_no_images_have_no_statistics(backbone, site):
    with pytest.raises(ValueError, match="no images"):
        statistics(backbone, InMemoryContexts(site.batch(torch.arange(0)), site.labels[:0]))


def test_a_loss_that_is_not_finite_is_an_error_not_an_update(backbone, base, site):
    broken = {**base, "prompt.mean": np.full_like(base["prompt.mean"], np.nan)}
    with pytest.raises(TrainingDivergedError, match="diverged in epoch 1"):
        trained(backbone, broken, site)


def test_no_images_and_labels_that_are_no_class_are_refused(backbone, base, site):
    with pytest.raises(ValueError, match="no images to train on"):
        trained(backbone, base, InMemoryContexts(site.batch(torch.arange(0)), site.labels[:0]))
    with pytest.raises(ValueError, match="labels range from 1 to 4; allowed: 0 to 3"):
        trained(backbone, base, InMemoryContexts(site.context, site.labels + 1))
