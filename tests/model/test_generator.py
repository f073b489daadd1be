"""The prompt generator: what it depends on, what it ignores, and where its randomness comes from."""

import pytest
import torch

from pfedbayespt.model._layers import normal_linear, zero_linear
from pfedbayespt.model.generator import PromptGenerator, dropout_mask


def make(noise_dim=4, latent_size=5, seed=0):
    return PromptGenerator(
        feature_dim=6,
        hidden_dim=8,
        latent_size=latent_size,
        noise_dim=noise_dim,
        generator=torch.Generator().manual_seed(seed),
    )


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_psi_depends_on_the_image_and_on_the_noise():
    generator = make()
    psi = generator(normal(3, 6), normal(3, 2, 4, seed=2))
    assert psi.shape == (3, 2, 5)
    assert (psi[:, 0] - psi[:, 1]).abs().max() > 0
    assert (psi[0] - psi[1]).abs().max() > 0


def test_noise_enters_at_the_input_and_again_at_the_hidden_layer():
    generator = make()
    eps = normal(1, 2, 4)
    for layer in (generator.input_noise, generator.hidden_noise):
        kept = layer.weight.detach().clone()
        with torch.no_grad():
            layer.weight.zero_()
            psi = generator(normal(1, 6), eps)
            layer.weight.copy_(kept)
        assert (psi[:, 0] - psi[:, 1]).abs().max() > 0  # the other entrance is enough


def test_without_mixing_noise_every_draw_is_the_same():
    generator = make(noise_dim=0)
    psi = generator(normal(3, 6), torch.zeros(3, 4, 0))
    assert psi.shape == (3, 4, 5)
    assert torch.equal(psi[:, 0], psi[:, 3])
    assert not any("noise" in name for name, _ in generator.named_parameters())


def test_it_starts_near_zero_but_not_at_zero():
    psi = make(latent_size=2000)(normal(8, 6), normal(8, 3, 4, seed=2))
    assert 1e-3 < psi.square().mean().sqrt() < 0.2


def test_a_wide_latent_is_of_low_rank():
    psi = make(latent_size=100)(normal(60, 6), normal(60, 1, 4, seed=2))[:, 0]
    assert torch.linalg.matrix_rank(psi - psi.mean(0)) <= 8


def test_the_same_generator_gives_the_same_weights_and_the_global_one_is_left_alone():
    before = torch.get_rng_state()
    first, second, other = make(seed=3), make(seed=3), make(seed=4)
    assert torch.equal(before, torch.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
    assert not torch.equal(first.output.weight, other.output.weight)


def test_a_dropout_mask_keeps_the_expectation_and_is_shared_by_the_draws_of_an_image():
    mask = dropout_mask(
        (400, 8), 0.25, generator=torch.Generator().manual_seed(1), device=torch.device("cpu")
    )
    assert mask.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert mask.mean().item() == pytest.approx(1.0, abs=0.05)
    generator = make(noise_dim=0)
    psi = generator(normal(1, 6).expand(400, -1), torch.zeros(400, 2, 0), mask)
    assert torch.equal(psi[:, 0], psi[:, 1])
    assert (psi[:, 0].std(0) > 0).all()


def test_no_dropout_draws_nothing():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    assert dropout_mask((2, 3), 0.0, generator=generator, device=torch.device("cpu")) is None
    assert torch.equal(before, generator.get_state())


def test_linear_layers_have_the_variance_they_promise():
    layer = normal_linear(100, 500, torch.Generator().manual_seed(0), gain=2.0)
    assert layer.weight.std().item() == pytest.approx(0.2, rel=0.02)
    assert torch.equal(layer.bias, torch.zeros(500))
    assert zero_linear(2, 3, bias=False).bias is None
    assert torch.equal(zero_linear(2, 3).weight, torch.zeros(3, 2))
