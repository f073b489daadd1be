"""All sites in one batch must be what each site computes alone with the product."""

import io
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from baselines.closed_form import fit_ridge, refit_ridge
from baselines.pfedpg import descended
from catalogue import METHODS
from choices import Choice
from fleet import Control, Fleet, average, federate, is_head, is_residual
from measures import site_measures
from partition import partition
from tests.benchmarks.fleets import POSTERIOR, SETTING, TRAINING, make_fleet

from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import HeadConfig, InsertionConfig, ModelConfig
from pfedbayespt.model.insertion.unprompted import UnpromptedContext
from pfedbayespt.model.parameters import difference, load_shared_parameters, shared_parameters
from pfedbayespt.model.sources import InMemoryContexts, gather_statistics
from pfedbayespt.model.training import train_round
from pfedbayespt.protocol import ParametersManifest, digest_of_bytes, tensors
from pfedbayespt.server.blobs import TemporaryBlob
from pfedbayespt.server.worker.aggregation import WeightedUpdate, aggregate


def product_round(fleet, encoded, site, start, round_number=2):
    """Train one site with the product's own code, from the fleet's start."""
    model = build_from(fleet, encoded, start)
    mine = fleet.train_indices[site]
    source = InMemoryContexts(encoded.context.select(mine), fleet.labels[mine])
    train_round(model, source, fleet.training, round_number=round_number, num_rounds=4, seed=site)
    return model


def build_from(fleet, encoded, start):
    """Return the product's model with the parameters and statistics that every site starts from."""
    model = build_classifier(fleet.config, encoded.backbone, torch.Generator().manual_seed(9))
    statistics = {n: p for n, p in shared_parameters(fleet.model).items() if n.startswith("statistics.")}
    load_shared_parameters(model, shared_parameters(model) | statistics)
    model.posterior.load_state_dict(part(start, "posterior.", 0))
    model.readout.load_state_dict(part(start, "readout.", 0))
    return model


def coordinate(base, updates):
    """Aggregate with the coordinator's own code, over real tensor files; sites hold equally many images."""
    manifest = ParametersManifest(
        federation="bench", specification_digest="sha256:" + "a" * 64, version_number=1
    )
    files = [tensors.encode(update, manifest) for update in updates]
    weighted = [
        WeightedUpdate(digest_of_bytes(file), partial(io.BytesIO, file), 1 / len(files)) for file in files
    ]
    output = TemporaryBlob(io.BytesIO())
    aggregate(io.BytesIO(tensors.encode(base, manifest)), weighted, manifest, output)
    output.file.seek(0)
    return tensors.decode(output.file.read())[1]


def part(parameters, prefix, site):
    return {n.removeprefix(prefix): p[site] for n, p in parameters.items() if n.startswith(prefix)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"label_shift": True, "dropout": 0.3},
        {"label_shift": True, "personal_residual": True},
        {"family": "gaussian"},
        {"family": "deterministic"},
        {"family": "shared"},
        {"cross_fit_folds": 3},
        {"cross_fit_folds": 2, "label_shift": True, "personal_residual": True},
        {"cross_fit_folds": 2, "insertion": InsertionConfig("midway", 2, 2)},
    ],
    ids=str,
)
def test_one_simulated_round_is_one_real_round_at_every_site(encoded, encoded_midway, options):
    fleet = make_fleet(encoded_midway if "insertion" in options else encoded, **options)
    start = fleet.train(fleet.stack(fleet.initial), round_number=1)
    start = fleet.stack(average(start))  # heads that say something
    after = fleet.train(start, round_number=2)
    for site in range(fleet.num_sites):
        model = product_round(fleet, fleet.encoded, site, start)
        real = {f"posterior.{n}": p for n, p in model.posterior.named_parameters()}
        real |= {f"readout.{n}": p for n, p in model.readout.named_parameters()}
        assert set(real) == set(after)
        for name, value in real.items():
            torch.testing.assert_close(after[name][site], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(after["readout.head.weight"][0], after["readout.head.weight"][1])


def test_a_simulated_fit_of_heads_is_a_real_round_that_fits_heads_alone(encoded):
    fleet = make_fleet(encoded, cross_fit_folds=2, label_shift=True, personal_residual=True)
    fleet.training = replace(fleet.training, head_rounds=1)
    start = fleet.train(fleet.stack(fleet.initial), round_number=1)
    start = fleet.stack(average(start))
    after = fleet.fit_heads(start, fleet.central_readouts(start))
    for site in range(fleet.num_sites):
        model = product_round(fleet, encoded, site, start, round_number=4)
        for name, value in model.readout.named_parameters():
            torch.testing.assert_close(after[f"readout.{name}"][site], value.detach(), rtol=1e-4, atol=1e-5)
        for name, value in model.posterior.named_parameters():
            torch.testing.assert_close(after[f"posterior.{name}"][site], value.detach(), rtol=0, atol=0)
    assert not torch.equal(after["readout.head.weight"][0], start["readout.head.weight"][0])


@pytest.mark.parametrize("label_shift", [False, True])
def test_heads_alone_are_what_the_product_fits_without_prompts(encoded, label_shift):
    fleet = make_fleet(encoded, family="shared", cross_fit_folds=2, label_shift=label_shift)
    one, two = (METHODS["heads alone"].fit(fleet, Choice(num_rounds=number)) for number in (1, 2))
    context = UnpromptedContext(encoded.context.features, encoded.readout)
    config = replace(fleet.config, insertion=InsertionConfig("none"))
    heads = []
    for mine in fleet.train_indices:
        model = build_classifier(config, encoded.backbone, torch.Generator())
        model.readout_moments.load_state_dict(fleet.model.readout_moments.state_dict())
        if label_shift:
            model.class_frequencies.copy_(fleet.model.class_frequencies)
        model.readout.head.load_state_dict(part(one, "readout.head.", 0))
        source = InMemoryContexts(context.select(mine), fleet.labels[mine])
        train_round(model, source, TRAINING, round_number=2, num_rounds=2, seed=0)
        heads.append(model.readout.head.weight.detach())
    torch.testing.assert_close(
        two["readout.head.weight"][0], torch.stack(heads).mean(0), rtol=1e-4, atol=1e-5
    )


def test_federated_averaging_ends_with_the_rounds_that_fit_heads(encoded):
    fleet = make_fleet(encoded, cross_fit_folds=2)
    fleet.num_rounds, choice = 2, Choice(num_rounds=2)
    prompts_alone = METHODS["pFedBayesPT"].fit(fleet, choice)
    fleet.num_rounds, fleet.training = 4, replace(fleet.training, head_rounds=2)
    whole = METHODS["pFedBayesPT"].fit(fleet, choice)
    for name, value in whole.items():
        assert torch.equal(value, prompts_alone[name]) == (not is_head(name)), name


def test_the_simulated_average_is_what_the_coordinator_makes_of_the_sites_updates(encoded):
    fleet = make_fleet(encoded)
    start = fleet.stack(fleet.initial)
    real = [product_round(fleet, encoded, site, start) for site in range(fleet.num_sites)]
    base = shared_parameters(build_from(fleet, encoded, start))
    updates = [difference(shared_parameters(model), base) for model in real]
    version = coordinate(base, updates)
    simulated = average(fleet.train(start, round_number=2))
    load_shared_parameters(real[0], version)
    expected = {f"posterior.{n}": p for n, p in real[0].posterior.named_parameters()}
    expected |= {f"readout.{n}": p for n, p in real[0].readout.named_parameters()}
    for name, value in expected.items():
        torch.testing.assert_close(simulated[name], value.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"cross_fit_folds": 2, "label_shift": True}], ids=str)
def test_statistics_of_the_simulation_are_the_mean_of_what_sites_gather(encoded, options):
    fleet = make_fleet(encoded, **options)
    sources = [InMemoryContexts(encoded.context.select(m), fleet.labels[m]) for m in fleet.train_indices]
    gathered = [gather_statistics(fleet.model, source) for source in sources]
    simulated = shared_parameters(fleet.model)
    for name in gathered[0]:
        mean = np.mean([site[name] for site in gathered], axis=0)
        np.testing.assert_allclose(simulated[name], mean, rtol=1e-5, atol=1e-7)


def test_what_is_personal_is_not_averaged(encoded):
    fleet = make_fleet(encoded, personal_residual=True)
    trained = fleet.train(fleet.stack(fleet.initial), 1)
    for personal, expected in ((is_head, trained["readout.head.weight"]), (is_residual, None)):
        after = federate(trained, personal)["readout.head.weight"]
        mean = trained["readout.head.weight"].mean(0).expand_as(after)
        torch.testing.assert_close(after, mean if expected is None else expected)
    assert torch.equal(federate(trained)["readout.residual.weight"], trained["readout.residual.weight"])


def test_unseen_sites_are_answered_by_the_mean_without_a_class_prior(encoded):
    fleet = make_fleet(encoded, label_shift=True, family="shared")
    stacked = fleet.train(fleet.stack(fleet.initial), 1)
    unseen = fleet.answer_unseen(stacked, fleet.test_indices[:1].numpy(), num_samples=2)
    known = fleet.answer(fleet.stack(average(stacked)), num_samples=2)
    unshifted = known.probabilities[0].log() - fleet.log_prior[0]
    torch.testing.assert_close(unseen.probabilities[0], unshifted.softmax(-1), rtol=1e-3, atol=1e-4)


def test_a_control_takes_away_just_what_it_names(encoded):
    fleet = make_fleet(encoded, prompt_scale=3.0)
    stacked = fleet.train(fleet.stack(fleet.initial), 1)

    def answer(**control):
        return fleet.answer(stacked, 3, Control(**control))

    assert not torch.equal(answer().probabilities, answer(shuffle=True).probabilities)
    assert not torch.equal(answer().probabilities, answer(without_eps=True).probabilities)
    assert answer(without_eps=True, without_u=True).epistemic.abs().max() < 1e-5 < answer().epistemic.max()
    assert answer(num_samples=1).epistemic.abs().max() < 1e-5


def test_the_average_of_equal_models_is_that_model(encoded):
    fleet = make_fleet(encoded)
    for name, value in average(fleet.stack(fleet.initial)).items():
        torch.testing.assert_close(value, fleet.initial[name])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_learns_an_easy_task_and_answers_with_probabilities(encoded, name):
    method = METHODS[name]
    config = ModelConfig(
        3,
        InsertionConfig("prefix", 2, 2),
        replace(POSTERIOR, **method.posterior),
        HeadConfig(4, **method.head),
    )
    split = partition(encoded.pool, SETTING, seed=0)
    training = replace(TRAINING, **method.training)
    fleet = Fleet(
        encoded,
        split.train,
        split.test,
        config,
        training,
        condition=method.condition,
        frozen_readout=method.frozen_readout,
    )
    answers = fleet.answer(method.fit(fleet, Choice(num_rounds=5)), num_samples=2)
    torch.testing.assert_close(answers.probabilities.sum(-1), torch.ones(3, 26))
    assert np.mean([row["accuracy"] for row in site_measures(answers)]) > 0.5


def test_pfedpgs_server_steps_towards_what_sites_trained_and_never_past_it():
    """With a constant step embeddings and map grew each other, and prompts were a thousand times too long."""
    generator = torch.Generator().manual_seed(0)
    sites, weights = torch.randn(6, 16, generator=generator) / 4, torch.zeros(16, 500)
    trained = 20 * torch.randn(6, 500, generator=generator)
    left = [trained.norm()]
    for _ in range(10):
        sites, weights = descended(sites, weights, trained - sites @ weights)
        left.append((trained - sites @ weights).norm())
    assert all(after < before for before, after in pairwise(left))
    assert left[1] > 0.1 * left[0]
    assert left[-1] < 0.05 * left[0]


def test_without_prompts_a_linear_probe_on_the_frozen_readout_is_trained(encoded):
    fleet = make_fleet(encoded, family="shared")
    frozen = Fleet(
        encoded,
        fleet.train_indices.numpy(),
        fleet.test_indices.numpy(),
        fleet.config,
        TRAINING,
        frozen_readout=True,
    )
    after = frozen.train(frozen.stack(frozen.initial), 1)
    torch.testing.assert_close(after["posterior.mean"], frozen.stack(frozen.initial)["posterior.mean"])
    assert after["readout.head.weight"].abs().max() > 0


@pytest.mark.parametrize("family", ["shared", "deterministic"])
def test_the_prompted_readouts_of_the_simulation_are_the_products(encoded, family):
    fleet = make_fleet(encoded, family=family)
    trained = fleet.stack(average(fleet.train(fleet.stack(fleet.initial), round_number=1)))
    simulated = fleet.central_readouts(trained)
    model = build_from(fleet, encoded, trained)
    for site, mine in enumerate(fleet.train_indices):
        context = encoded.context.select(mine)
        noise = torch.zeros(len(mine), 1, model.posterior.noise_width)
        with torch.no_grad():
            real = model.read_out(context, model.draw(context, noise))[:, 0]
        torch.testing.assert_close(simulated[site], real, rtol=1e-4, atol=1e-5)


def test_a_refitted_head_is_the_ridge_regression_over_what_the_prompts_give(encoded):
    fleet = make_fleet(encoded, family="shared")
    frozen = fit_ridge(fleet, Choice())
    trained = fleet.train(fleet.stack(fleet.initial), round_number=1)
    trained = fleet.stack(average(trained))
    refitted = refit_ridge(fleet, trained, fleet.central_readouts(trained), Choice())
    readout = fleet.central_readouts(refitted).flatten(0, 1)
    targets = torch.nn.functional.one_hot(fleet.labels[fleet.train_indices.flatten()], 3).float()
    extended = torch.cat([readout, torch.ones(len(readout), 1)], 1)
    solved = (
        torch.cat([refitted["readout.head.weight"][0], refitted["readout.head.bias"][0][:, None]], 1).T / 10
    )
    # The normal equations of ridge regression: X'(XW - Y) + 1000 W = 0.
    torch.testing.assert_close(
        extended.T @ (targets - extended @ solved), 1000 * solved, rtol=1e-3, atol=1e-3
    )
    assert not torch.allclose(refitted["readout.head.weight"], frozen["readout.head.weight"], atol=1e-4)
    assert torch.equal(refitted["posterior.mean"], trained["posterior.mean"])


def test_where_a_class_prior_is_added_every_class_weighs_the_same_in_a_closed_form(encoded):
    fleet = make_fleet(encoded, family="shared", label_shift=True)
    kept = fleet.labels[fleet.train_indices[0]] > 0
    fleet.train_indices = fleet.train_indices[:, kept.nonzero().flatten()[:6]]
    indices = fleet.train_indices.flatten()
    targets = torch.nn.functional.one_hot(fleet.labels[indices], 3).float()
    counts = targets.sum(0)
    assert counts.max() > counts[counts > 0].min()
    head = fit_ridge(fleet, Choice())
    solved = torch.cat([head["readout.head.weight"][0], head["readout.head.bias"][0][:, None]], 1).T / 10
    extended = torch.cat([fleet.readouts(indices), torch.ones(len(indices), 1)], 1)
    weights = (1 / counts)[fleet.labels[indices]][:, None]
    weights = weights / weights.mean()
    torch.testing.assert_close(
        extended.T @ (weights * (targets - extended @ solved)), 1000 * solved, rtol=1e-3, atol=1e-3
    )
