"""The posterior over prompts: its families, its latents, and what a row of noise means."""

import itertools
from typing import get_args

import pytest
import torch

from pfedbayespt.model.config import Family, Latent, PosteriorConfig
from pfedbayespt.model.posterior import LOG_SCALE_RANGE, PromptPosterior

FEATURES, TOKENS, WIDTH = 6, 3, 4
SCALE = torch.linspace(0.5, 2.0, TOKENS * WIDTH)


def make(family="semi_implicit", latent="lowrank", *, seed=0, **fields):
    config = PosteriorConfig(family=family, latent=latent, latent_dim=5, noise_dim=2, hidden_dim=8, **fields)
    generator = torch.Generator().manual_seed(seed)
    return PromptPosterior(
        config,
        feature_dim=FEATURES,
        num_tokens=TOKENS,
        initial_prompt=torch.randn(TOKENS * WIDTH, generator=generator),
        prompt_scale=SCALE,
        generator=generator,
    )


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(posterior, num_samples=3, num_mixing=2, batch=2):
    noise = normal(batch, num_samples, posterior.noise_width, seed=2)
    return posterior.draw(
        normal(batch, FEATURES), noise, normal(batch, num_mixing, posterior.noise_dim, seed=3)
    )


@pytest.mark.parametrize(("family", "latent"), list(itertools.product(get_args(Family), get_args(Latent))))
def test_every_family_and_latent_draws_whole_prompts(family, latent):
    posterior = make(family, latent)
    sizes = {"lowrank": 5, "token": 5 * TOKENS, "full": TOKENS * WIDTH}
    assert posterior.latent_size == (0 if family == "shared" else sizes[latent])
    drawn = draw(posterior)
    assert drawn.prompts.shape == (2, 3, TOKENS * WIDTH)
    assert drawn.central_prompt.shape == (2, TOKENS * WIDTH)
    assert drawn.psi_mixing.shape == (2, 2, posterior.latent_size)


@pytest.mark.parametrize(
    ("family", "noise_width", "parameters"),
    [
        ("semi_implicit", 7, {"mean", "map", "log_scale", "generator"}),
        ("gaussian", 5, {"mean", "map", "log_scale", "generator"}),
        ("deterministic", 0, {"mean", "map", "generator"}),
        ("shared", 0, {"mean"}),
    ],
)
def test_a_family_has_the_noise_and_the_parameters_it_needs_and_no_more(family, noise_width, parameters):
    posterior = make(family)
    assert posterior.noise_width == noise_width
    assert {name.split(".")[0] for name, _ in posterior.named_parameters()} == parameters


def test_a_shared_prompt_is_the_same_for_every_image():
    posterior = make("shared")
    drawn = draw(posterior)
    assert torch.equal(drawn.prompts, posterior.mean.expand(2, 3, -1))


def test_deterministic_samples_are_equal_and_differ_between_images():
    prompts = draw(make("deterministic")).prompts
    assert torch.equal(prompts[:, 0], prompts[:, 2])
    assert not torch.equal(prompts[0], prompts[1])


def test_a_row_of_noise_is_eps_then_u():
    posterior = make()
    noise = normal(2, 3, 7)
    drawn = posterior.draw(normal(2, FEATURES), noise)
    psi = posterior.centres(normal(2, FEATURES), noise[..., :2])
    latents = psi + noise[..., 2:] * posterior.log_scale.exp()
    torch.testing.assert_close(drawn.psi_0, psi)
    torch.testing.assert_close(drawn.prompts, posterior.mean + SCALE * (latents @ posterior.map.T))


def test_the_first_samples_do_not_depend_on_how_many_follow():
    posterior = make()
    features, noise = normal(2, FEATURES), normal(2, 6, 7)
    few, many = posterior.draw(features, noise[:, :3]), posterior.draw(features, noise)
    torch.testing.assert_close(few.prompts, many.prompts[:, :3])
    torch.testing.assert_close(few.central_prompt, many.central_prompt)


def test_a_token_latent_moves_its_own_token_alone():
    posterior = make(latent="token")
    latents = torch.zeros(1, 1, 5 * TOKENS)
    latents[..., 5:10] = 1.0
    moved = (posterior.prompts(latents)[0, 0] - posterior.mean).view(TOKENS, WIDTH).abs().sum(-1) > 0
    assert moved.tolist() == [False, True, False]


def test_a_full_latent_is_the_prompt_on_its_own_scale():
    posterior = make(latent="full", prompt_scale=0.25)
    latents = normal(2, 3, TOKENS * WIDTH)
    torch.testing.assert_close(posterior.prompts(latents), posterior.mean + 0.25 * SCALE * latents)


@pytest.mark.parametrize("latent", get_args(Latent))
def test_under_the_prior_the_prompt_spreads_by_the_configured_share_of_its_scale(latent):
    relative = []
    for seed in range(20):  # R is random itself
        posterior = make(latent=latent, prompt_scale=0.3, seed=seed)
        latents = normal(500, 1, posterior.latent_size, seed=seed)
        relative.append(((posterior.prompts(latents) - posterior.mean) / SCALE).detach())
    assert torch.cat(relative).square().mean().sqrt().item() == pytest.approx(0.3, rel=0.05)


def test_the_scale_is_clamped():
    posterior = make()
    for extreme, limit in zip((-99.0, 99.0), LOG_SCALE_RANGE, strict=True):
        with torch.no_grad():
            posterior.log_scale.fill_(extreme)
        assert draw(posterior).log_scale.unique().tolist() == [limit]


def test_noise_of_another_width_is_refused():
    posterior = make()
    with pytest.raises(ValueError, match="noise rows have 6 numbers; this posterior takes 7"):
        posterior.draw(normal(2, FEATURES), normal(2, 1, 6))


def test_gradients_reach_the_prompt_the_map_the_scale_and_the_generator():
    posterior = make()
    drawn = draw(posterior)
    (drawn.prompts.square().sum() + drawn.psi_mixing.square().sum()).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in posterior.parameters())
