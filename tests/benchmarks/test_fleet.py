"""All sites in one batch must be what each site computes alone with the product."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from catalogue import METHODS
from fleet import Fleet, average
from measures import site_measures
from partition import Setting, partition

from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import HeadConfig, InsertionConfig, ModelConfig, PosteriorConfig, TrainingConfig
from pfedbayespt.model.sources import InMemoryContexts
from pfedbayespt.model.training import train_round

POSTERIOR = PosteriorConfig(latent_dim=4, noise_dim=3, hidden_dim=8)
TRAINING = TrainingConfig(local_epochs=2, batch_size=8, num_mixing_samples=3, seed=5)
SETTING = Setting("F2", num_sites=3, num_train=20, num_test=26)


def make_fleet(encoded, *, label_shift=False, **posterior) -> Fleet:
    config = ModelConfig(
        3,
        InsertionConfig("prefix", 2, 2),
        replace(POSTERIOR, **posterior),
        HeadConfig(4, label_shift=label_shift),
    )
    split = partition(encoded.pool, SETTING, seed=0)
    return Fleet(encoded, split.train, split.test, config, TRAINING, num_rounds=4)


def product_round(fleet, encoded, site, start):
    """Train one site with the product's own code, from the fleet's start."""
    model = build_classifier(fleet.config, encoded.backbone, torch.Generator().manual_seed(9))
    model.feature_moments.load_state_dict(fleet.model.feature_moments.state_dict())
    model.readout_moments.load_state_dict(fleet.model.readout_moments.state_dict())
    model.posterior.load_state_dict(part(start, "posterior.", site))
    model.readout.head.load_state_dict(part(start, "head.", site))
    mine = fleet.train_indices[site]
    source = InMemoryContexts(encoded.context.select(mine), fleet.labels[mine])
    train_round(model, source, TRAINING, round_number=2, num_rounds=4, seed=site)
    return model


def part(parameters, prefix, site):
    return {n.removeprefix(prefix): p[site] for n, p in parameters.items() if n.startswith(prefix)}


@pytest.mark.parametrize(
    ("label_shift", "posterior"),
    [
        (False, {}),
        (True, {"dropout": 0.3}),
        (False, {"family": "gaussian"}),
        (False, {"family": "deterministic"}),
        (False, {"family": "shared"}),
    ],
)
def test_one_simulated_round_is_one_real_round_at_every_site(encoded, label_shift, posterior):
    fleet = make_fleet(encoded, label_shift=label_shift, **posterior)
    start = fleet.stack(fleet.initial)
    after = fleet.train(start, round_number=2)
    for site in range(fleet.num_sites):
        model = product_round(fleet, encoded, site, start)
        for name, value in model.posterior.named_parameters():
            torch.testing.assert_close(after[f"posterior.{name}"][site], value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            after["head.weight"][site], model.readout.head.weight, rtol=1e-4, atol=1e-5
        )
    assert not torch.equal(after["head.weight"][0], after["head.weight"][1])


def test_the_average_of_equal_models_is_that_model(encoded):
    fleet = make_fleet(encoded)
    for name, value in average(fleet.stack(fleet.initial)).items():
        torch.testing.assert_close(value, fleet.initial[name])


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_learns_an_easy_task_and_answers_with_probabilities(encoded, name):
    method = METHODS[name]
    config = ModelConfig(
        3, InsertionConfig("prefix", 2, 2), replace(POSTERIOR, **method.posterior), HeadConfig(4)
    )
    split = partition(encoded.pool, SETTING, seed=0)
    training = replace(TRAINING, **method.training)
    fleet = Fleet(
        encoded,
        split.train,
        split.test,
        config,
        training,
        blind=method.blind,
        frozen_readout=method.frozen_readout,
    )
    answers = fleet.answer(method.fit(fleet, 5), num_samples=2, shuffle=method.shuffle)
    torch.testing.assert_close(answers.probabilities.sum(-1), torch.ones(3, 26))
    assert np.mean([row["accuracy"] for row in site_measures(answers)]) > 0.5


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
    assert after["head.weight"].abs().max() > 0
