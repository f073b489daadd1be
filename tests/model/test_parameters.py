"""What leaves a site, under which names, and what never does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import HeadConfig, InsertionConfig, ModelConfig, PosteriorConfig
from pfedbayespt.model.parameters import (
    ParameterError,
    difference,
    initial_parameters,
    load_personal_parameters,
    load_shared_parameters,
    personal_parameters,
    shared_parameters,
)
from pfedbayespt.protocol import ModelVersion, TensorSpec

CONFIG = ModelConfig(
    num_classes=3,
    insertion=InsertionConfig(num_blocks=2, prompt_length=2),
    posterior=PosteriorConfig(latent_dim=4, noise_dim=2, hidden_dim=8),
    head=HeadConfig(personal_residual=True),
)
STATISTICS = {
    "statistics.features.mean",
    "statistics.features.second_moment",
    "statistics.readout.mean",
    "statistics.readout.second_moment",
}
GENERATOR = {
    f"generator.{layer}.{part}" for layer in ("features", "hidden", "output") for part in ("weight", "bias")
}


@pytest.fixture
def model(backbone):
    return build_classifier(CONFIG, backbone, torch.Generator().manual_seed(0))


def of_family(family):
    return replace(CONFIG, posterior=replace(CONFIG.posterior, family=family))


def test_the_shared_parameters_have_their_names_on_the_wire(model):
    noise = {"generator.input_noise.weight", "generator.hidden_noise.weight"}
    prompt = {"prompt.mean", "prompt.map", "posterior.log_scale"}
    assert set(shared_parameters(model)) == STATISTICS | GENERATOR | noise | prompt | {
        "head.weight",
        "head.bias",
    }


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("gaussian", GENERATOR | {"prompt.mean", "prompt.map", "posterior.log_scale"}),
        ("deterministic", GENERATOR | {"prompt.mean", "prompt.map"}),
        ("shared", {"prompt.mean"}),
    ],
)
def test_a_rival_family_shares_only_what_it_has(backbone, family, expected):
    shared = initial_parameters(of_family(family), backbone, seed=0)
    assert set(shared) == STATISTICS | {"head.weight", "head.bias"} | expected


def test_statistics_are_double_and_everything_else_is_single_and_all_fits_the_wire(model):
    assert ModelVersion.model_fields  # the wire contract is importable beside the model
    for name, array in shared_parameters(model).items():
        dtype = np.float64 if name.startswith("statistics.") else np.float32
        assert array.dtype == dtype
        spec = TensorSpec(name=name, dtype="F64" if dtype is np.float64 else "F32", shape=array.shape)
        assert spec.num_elements == array.size > 0


def test_only_the_residual_is_personal(model):
    assert set(personal_parameters(model)) == {"residual.weight", "residual.bias"}
    assert not set(personal_parameters(model)) & set(shared_parameters(model))


def test_the_trunk_is_neither_shared_nor_personal(model):
    num_known = sum(
        array.size for array in {**shared_parameters(model), **personal_parameters(model)}.values()
    )
    num_trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    num_statistics = sum(array.size for name, array in shared_parameters(model).items() if name in STATISTICS)
    assert num_known == num_trainable + num_statistics


def test_what_is_loaded_is_what_is_read_and_the_personal_part_stays(model):
    rng = np.random.default_rng(0)
    ours = {name: np.ones_like(array) for name, array in personal_parameters(model).items()}
    load_personal_parameters(model, ours)
    wanted = {
        name: rng.standard_normal(a.shape).astype(a.dtype) for name, a in shared_parameters(model).items()
    }
    load_shared_parameters(model, wanted)
    for name, array in shared_parameters(model).items():
        np.testing.assert_array_equal(array, wanted[name])
    for array in personal_parameters(model).values():
        assert (array == 1).all()


def test_parameters_read_are_copies(model):
    shared_parameters(model)["prompt.mean"][:] = 99.0
    assert (shared_parameters(model)["prompt.mean"] != 99.0).all()


def test_missing_unknown_and_misshapen_parameters_are_named_and_change_nothing(model):
    before = shared_parameters(model)
    good = {name: array + 1 for name, array in before.items()}
    cases = [
        ({n: a for n, a in good.items() if n != "head.bias"}, r"missing parameters: \['head.bias'\]"),
        ({**good, "head.offset": good["head.bias"]}, r"unknown parameters: \['head.offset'\]"),
        ({**good, "head.bias": np.zeros(7, np.float32)}, r"head.bias has shape \(7,\); expected \(3,\)"),
    ]
    for bad, said in cases:
        with pytest.raises(ParameterError, match=said):
            load_shared_parameters(model, bad)
    for name, array in shared_parameters(model).items():
        np.testing.assert_array_equal(array, before[name])


def test_a_difference_added_to_its_base_gives_the_parameters_back(backbone):
    before, after = initial_parameters(CONFIG, backbone, 0), initial_parameters(CONFIG, backbone, 1)
    delta = difference(after, before)
    for name, array in delta.items():
        assert array.dtype == before[name].dtype
        np.testing.assert_allclose(before[name] + array, after[name], rtol=1e-6, atol=1e-6)
    with pytest.raises(ParameterError, match="missing"):
        difference({}, before)


def test_the_mean_of_identical_differences_is_that_difference(backbone):
    before, after = initial_parameters(CONFIG, backbone, 0), initial_parameters(CONFIG, backbone, 1)
    delta = difference(after, before)
    for name, base in before.items():
        mean = np.average([delta[name]] * 3, axis=0, weights=[1, 5, 2])
        np.testing.assert_allclose(base + mean, after[name], rtol=1e-6, atol=1e-6)


def test_version_zero_depends_on_the_seed_alone(backbone):
    first, again = initial_parameters(CONFIG, backbone, 5), initial_parameters(CONFIG, backbone, 5)
    other = initial_parameters(CONFIG, backbone, 6)
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert first["prompt.mean"].tobytes() != other["prompt.mean"].tobytes()
