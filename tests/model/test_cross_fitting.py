"""Heads in closed form, and prompts that are trained against a head that has not seen their image."""

from dataclasses import replace

import numpy as np
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
from pfedbayespt.model.cross_fitting import class_weights, fitted_heads, folds_of, ridge_regression
from pfedbayespt.model.parameters import difference, load_shared_parameters, shared_parameters
from pfedbayespt.model.sources import InMemoryContexts, class_frequencies, gather_statistics
from pfedbayespt.model.training import train_round

C, F = 3, 2
HEAD = HeadConfig(mid_block=3, grid_size=1, cross_fit_folds=F)
CONFIG = ModelConfig(
    C, InsertionConfig("midway", 2, 2), PosteriorConfig(latent_dim=4, noise_dim=3, hidden_dim=8), HEAD
)
TRAINING = TrainingConfig(local_epochs=2, batch_size=8, num_mixing_samples=2, learning_rate=1e-2)


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def site(backbone) -> InMemoryContexts:
    insertion = build_classifier(CONFIG, backbone, torch.Generator()).insertion
    return InMemoryContexts.encode(insertion, [normal(24, 3, 48, 48, seed=0)], torch.arange(24) % C)


def untrained(backbone):
    return build_classifier(CONFIG, backbone, torch.Generator().manual_seed(0))


def after_round(model, site, number, **options):
    train_round(model, site, replace(TRAINING, **options), round_number=number, num_rounds=None, seed=1)
    return model


def heads(size, seed=3):
    """Heads of a read-out of `size` numbers, for 3 classes and 2 folds."""
    shapes = {
        "head.weight": (C, size),
        "head.bias": (C,),
        "folds.weight": (F * C, size),
        "folds.bias": (F * C,),
    }
    return {name: normal(*shape, seed=seed) for name, shape in shapes.items()}


def zeros(size):
    return {name: torch.zeros_like(value) for name, value in heads(size).items()}


def test_every_class_is_dealt_to_all_folds_alike():
    labels = torch.tensor([2, 0, 0, 1, 2, 0, 1, 0, 2, 2, 1, 1])
    folds = folds_of(labels, 4)
    for label in range(3):
        assert sorted(folds[labels == label].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("num_images", [5, 40])
def test_a_ridge_regression_solves_its_normal_equations_in_either_space(num_images):
    inputs, targets, weights = (
        normal(num_images, 8),
        normal(num_images, 3, seed=2),
        normal(num_images).square(),
    )
    weight, bias = ridge_regression(inputs, targets, weights, ridge=2.0)
    error = targets - inputs @ weight.T - bias
    torch.testing.assert_close((weights[:, None] * error).T @ inputs, 2 * weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close((weights[:, None] * error).sum(0), 2 * bias, rtol=1e-3, atol=1e-4)


def test_under_class_weights_every_class_weighs_the_same_over_all_sites():
    sites = torch.tensor([0, 0, 0, 2]), torch.tensor([2, 2, 2, 4, 0, 0])
    frequencies = class_frequencies(torch.cat(sites), 5)
    weights = torch.cat([class_weights(labels, frequencies) for labels in sites])
    labels = torch.cat(sites)
    assert weights.mean() == pytest.approx(1)
    for label in (0, 2, 4):
        assert weights[labels == label].sum() == pytest.approx(len(labels) / 3)


def test_a_class_that_came_after_the_statistics_weighs_as_the_rarest():
    frequencies = torch.tensor([0.75, 0.25, 0.0], dtype=torch.float64)
    weights = class_weights(torch.tensor([0, 1, 2]), frequencies)
    assert weights.tolist() == pytest.approx([0.5 / 0.75, 2, 2])


@pytest.mark.parametrize("frequencies", [None, torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)])
def test_the_head_of_a_fold_is_that_of_the_other_images_alone_held_by_its_own_ridge(frequencies):
    readout, labels = normal(20, 6), torch.arange(20) % C
    folds = folds_of(labels, F)
    before = heads(6)
    fitted = fitted_heads(HEAD, readout, labels, folds, before, frequencies)
    for fold in range(F):
        others = folds != fold
        its_own = {f"head.{part}": before[f"folds.{part}"].chunk(F)[fold] for part in ("weight", "bias")}
        images = readout[others], labels[others], folds[others]
        config = replace(HEAD, ridge=HEAD.fold_ridge)
        alone = fitted_heads(config, *images, before | its_own, frequencies)
        torch.testing.assert_close(fitted["folds.weight"].chunk(F)[fold], alone["head.weight"])
        torch.testing.assert_close(fitted["folds.bias"].chunk(F)[fold], alone["head.bias"])
    assert not torch.allclose(*fitted["folds.weight"].chunk(F))


def test_frequencies_change_what_a_head_is_fitted_to():
    readout, labels, before = normal(20, 6), torch.arange(20) % C, heads(6)
    folds, skewed = folds_of(labels, F), torch.tensor([0.8, 0.1, 0.1], dtype=torch.float64)
    alike = class_frequencies(labels, C)
    fitted = [fitted_heads(HEAD, readout, labels, folds, before, by)["head.weight"] for by in (alike, skewed)]
    assert not torch.allclose(*fitted, rtol=1e-2)


def test_a_head_that_is_fitted_afresh_is_the_ridge_regression_in_logits():
    readout, labels = normal(20, 6), torch.arange(20) % C
    config = replace(HEAD, carry_over=0.0, relaxation=1.0, ridge=0.5, logit_scale=7.0)
    fitted = fitted_heads(config, readout, labels, folds_of(labels, F), heads(6))
    targets = torch.nn.functional.one_hot(labels, C).float() - 1 / C
    weight, bias = ridge_regression(readout, targets, torch.ones(20), ridge=0.5 * 6)
    torch.testing.assert_close(fitted["head.weight"], 7 * weight)
    torch.testing.assert_close(fitted["head.bias"], 7 * bias)


def test_a_firm_prior_holds_a_head_to_the_federations():
    readout, labels, before = normal(20, 6), torch.arange(20) % C, heads(6)
    config = replace(HEAD, carry_over=0.9, ridge=1e6, fold_ridge=1e6)
    fitted = fitted_heads(config, readout, labels, folds_of(labels, F), before)
    for name, value in fitted.items():
        torch.testing.assert_close(value, 0.9 * before[name], rtol=1e-4, atol=1e-4)


def test_relaxation_steps_beyond_the_closed_form():
    readout, labels, before = normal(20, 6), torch.arange(20) % C, heads(6)
    there, beyond = (
        fitted_heads(
            replace(HEAD, carry_over=1.0, relaxation=omega), readout, labels, folds_of(labels, F), before
        )
        for omega in (1.0, 1.5)
    )
    for name, value in beyond.items():
        torch.testing.assert_close(
            value - before[name], 1.5 * (there[name] - before[name]), rtol=1e-4, atol=1e-5
        )


def distances_to_the_head_of_all(skewed: bool, relaxation: float, num_rounds: int) -> list[float]:
    """Eight images of forty numbers at each of four sites: none of them could learn the task alone."""
    truth = normal(C, 40, seed=4)
    images = normal(32, 40, seed=5)
    labels = (images @ truth.T).argmax(1)
    sites = labels.argsort().chunk(4) if skewed else torch.arange(32).chunk(4)
    config = replace(HEAD, carry_over=1.0, ridge=0.05, logit_scale=1.0, relaxation=relaxation)
    plain = replace(config, relaxation=1.0)
    together = fitted_heads(plain, images, labels, folds_of(labels, F), zeros(40))
    errors, mean = [], zeros(40)
    for _ in range(num_rounds):
        own = [fitted_heads(config, images[s], labels[s], folds_of(labels[s], F), mean) for s in sites]
        mean = {name: torch.stack([fitted[name] for fitted in own]).mean(0) for name in mean}
        errors.append((images @ (mean["head.weight"] - together["head.weight"]).T).norm().item())
    return errors


@pytest.mark.parametrize("skewed", [False, True])
def test_from_round_to_round_the_mean_of_the_sites_nears_the_head_of_all_their_images(skewed):
    plain, relaxed = (distances_to_the_head_of_all(skewed, omega, 12) for omega in (1.0, 1.8))
    assert plain[-1] < 0.35 * plain[0]
    assert relaxed[3] < 0.8 * plain[3]


def test_class_frequencies_are_kept_where_heads_in_closed_form_have_to_know_them(backbone, site):
    config = replace(CONFIG, head=replace(HEAD, label_shift=True))
    model = build_classifier(config, backbone, torch.Generator().manual_seed(0))
    gathered = gather_statistics(model, site)
    assert gathered["statistics.classes"].tolist() == pytest.approx([1 / 3] * 3)
    assert shared_parameters(model).keys() >= gathered.keys()
    assert "statistics.classes" not in gather_statistics(untrained(backbone), site)


def test_a_site_that_lacks_a_class_says_so_in_its_statistics(backbone, site):
    config = replace(CONFIG, head=replace(HEAD, label_shift=True))
    model = build_classifier(config, backbone, torch.Generator().manual_seed(0))
    few = InMemoryContexts(site.context.select(torch.tensor([0, 3, 1])), torch.tensor([0, 0, 1]))
    assert gather_statistics(model, few)["statistics.classes"].tolist() == pytest.approx([2 / 3, 1 / 3, 0])


def test_the_first_round_fits_heads_and_the_next_trains_prompts_against_them(backbone, site):
    start = shared_parameters(untrained(backbone))
    model = after_round(untrained(backbone), site, 1, beta=0.0, weight_decay=0.0)
    first = shared_parameters(model)
    assert not difference(first, start)["prompt.mean"].any()
    assert all(difference(first, start)[name].any() for name in ("head.weight", "folds.weight"))
    after_round(model, site, 2)
    assert difference(shared_parameters(model), first)["prompt.mean"].any()


def test_within_a_round_prompts_do_not_depend_on_what_the_head_for_all_images_was(backbone, site):
    trained = []
    for head in (0.0, 1.0):
        model = after_round(untrained(backbone), site, 1)
        with torch.no_grad():
            model.readout.head.weight.fill_(head)
        trained.append(shared_parameters(after_round(model, site, 2)))
    for name in trained[0]:
        assert (trained[0][name].tobytes() == trained[1][name].tobytes()) == (not name.startswith("head."))


def test_an_image_moves_the_prompt_through_the_head_of_its_own_fold_alone(backbone, site):
    model = after_round(untrained(backbone), site, 1)
    fold = folds_of(site.labels, F)[:1]
    readout = normal(1, 1, model.insertion.readout_dim)
    logits = model.readout.held_out_logits(readout, fold)
    with torch.no_grad():
        for other in range(F):
            if other != fold:
                model.readout.folds.weight.chunk(F)[other].zero_()
    assert torch.equal(model.readout.held_out_logits(readout, fold), logits)
    with torch.no_grad():
        model.readout.folds.weight.chunk(F)[int(fold)].zero_()
    assert not torch.equal(model.readout.held_out_logits(readout, fold), logits)


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_round_that_goes_on_from_a_checkpoint_fits_the_same_heads(backbone, site, epoch):
    base = shared_parameters(after_round(untrained(backbone), site, 1))
    kept = []

    def trained(**options):
        model = untrained(backbone)
        load_shared_parameters(model, base)
        train_round(model, site, TRAINING, round_number=2, num_rounds=None, seed=1, **options)
        return shared_parameters(model)

    undisturbed = trained(on_checkpoint=kept.append)
    resumed = trained(checkpoint=kept[epoch - 1])
    assert all(undisturbed[name].tobytes() == resumed[name].tobytes() for name in undisturbed)


def last_rounds(model, site, *round_numbers, **options):
    """Train rounds of four, of which the last two fit heads alone."""
    config = replace(TRAINING, head_rounds=2)
    for number in round_numbers:
        metrics = train_round(model, site, config, round_number=number, num_rounds=4, seed=1, **options)
    return metrics


def test_in_the_last_rounds_heads_move_and_nothing_else(backbone, site):
    model = untrained(backbone)
    last_rounds(model, site, 1, 2)
    before = shared_parameters(model)
    metrics = last_rounds(model, site, 3)
    moved = {name for name, change in difference(shared_parameters(model), before).items() if change.any()}
    assert moved == {"head.weight", "head.bias", "folds.weight", "folds.bias"}
    assert metrics.gradient_norm == 0.0
    assert metrics.pull == 0.0
    assert metrics.nll > 0.0
    assert metrics.num_examples == len(site.labels)


def test_rounds_after_the_last_ones_fit_heads_too(backbone, site):
    model = untrained(backbone)
    last_rounds(model, site, 1, 2)
    before = shared_parameters(model)["prompt.mean"].copy()
    last_rounds(model, site, 3, 4, 5)
    np.testing.assert_array_equal(shared_parameters(model)["prompt.mean"], before)


def test_a_round_that_fits_heads_has_one_epoch_and_goes_on_after_it(backbone, site):
    base = untrained(backbone)
    last_rounds(base, site, 1, 2)
    kept, epochs = [], []
    model = untrained(backbone)
    load_shared_parameters(model, shared_parameters(base))
    last_rounds(model, site, 3, on_checkpoint=kept.append, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert epochs == [1]
    resumed = untrained(backbone)
    load_shared_parameters(resumed, shared_parameters(base))
    last_rounds(resumed, site, 3, checkpoint=kept[0])
    assert all(
        value.tobytes() == shared_parameters(resumed)[name].tobytes()
        for name, value in shared_parameters(model).items()
    )


def test_one_fold_holds_nothing_out():
    with pytest.raises(ConfigError, match="cross_fit_folds is 1; allowed: 0, or 2 or more"):
        HeadConfig(cross_fit_folds=1)


@pytest.mark.parametrize("relaxation", [0.0, 2.0])
def test_a_relaxation_that_stands_still_or_runs_away_is_refused(relaxation):
    with pytest.raises(ConfigError, match="allowed: more than 0 and less than 2"):
        HeadConfig(relaxation=relaxation)
