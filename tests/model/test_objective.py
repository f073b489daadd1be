"""The bound against toys whose answers are known in closed form, in float64.

The linear toy: psi = W eps + b, so the marginal h(a) = N(b, W W^T + diag s^2) and KL(h || N(0, I)) are known.
"""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from pfedbayespt.model.objective import (
    Divergence,
    beta_at,
    divergence,
    gain,
    gain_without_own,
    gaussian_kl,
    log_density_ratios,
    pull,
)
from pfedbayespt.model.posterior import PromptDraw

NUM_DRAWS = 40_000
LATENT = 3


def make_draw(psi_0, psi_mixing, u, log_scale):
    return PromptDraw(
        prompts=torch.zeros(*psi_0.shape[:2], 1, dtype=psi_0.dtype),
        central_prompt=torch.zeros(psi_0.shape[0], 1, dtype=psi_0.dtype),
        psi_0=psi_0,
        psi_mixing=psi_mixing,
        u=u,
        log_scale=log_scale,
    )


class LinearToy:
    """psi = W eps + b with its exact marginal."""

    def __init__(self, spread: float = 0.7):
        generator = torch.Generator().manual_seed(5)
        self.generator = generator
        self.W = spread * torch.randn(LATENT, 2, generator=generator, dtype=torch.float64)
        self.b = 0.5 * torch.randn(LATENT, generator=generator, dtype=torch.float64)
        self.log_scale = torch.tensor([-0.6, -0.2, 0.1], dtype=torch.float64)

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    def draw(self, num_mixing: int, num_draws: int = NUM_DRAWS) -> PromptDraw:
        psi = self.normal(num_draws, num_mixing + 1, 2) @ self.W.T + self.b
        return make_draw(psi[:, :1], psi[:, 1:], self.normal(num_draws, 1, LATENT), self.log_scale)

    @property
    def marginal(self) -> MultivariateNormal:
        return MultivariateNormal(self.b, self.W @ self.W.T + torch.diag((2 * self.log_scale).exp()))

    def exact_kl(self) -> float:
        prior = MultivariateNormal(torch.zeros_like(self.b), torch.eye(LATENT, dtype=torch.float64))
        return torch.distributions.kl_divergence(self.marginal, prior).item()


def mean_and_error(values):
    return values.mean().item(), values.std().item() / math.sqrt(values.numel())


def test_without_mixing_samples_it_is_exactly_the_gaussian_kl():
    draw = LinearToy().draw(num_mixing=0, num_draws=20)
    result = divergence(draw)
    scale = draw.log_scale.exp()
    known = torch.distributions.kl_divergence(
        Normal(draw.psi_0, scale), Normal(torch.zeros_like(scale), torch.ones_like(scale))
    ).sum(-1)
    torch.testing.assert_close(result.kl, known, rtol=1e-12, atol=1e-12)
    assert torch.equal(result.gain, torch.zeros_like(known))
    assert torch.equal(result.bound_gap, torch.zeros_like(known))


def test_log_density_ratios_are_the_difference_of_log_densities():
    draw = LinearToy().draw(num_mixing=4, num_draws=50)
    scale = draw.log_scale.exp()
    latents = draw.psi_0 + draw.u * scale
    ratios = log_density_ratios(draw.u, draw.psi_0, draw.psi_mixing, draw.log_scale)
    direct = (
        Normal(draw.psi_mixing[:, None], scale).log_prob(latents[:, :, None]).sum(-1)
        - Normal(draw.psi_0, scale).log_prob(latents).sum(-1)[..., None]
    )
    torch.testing.assert_close(ratios, direct, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_mixing", [1, 5, 20])
def test_the_expected_gain_lies_between_zero_and_log_k_plus_one(num_mixing):
    for spread in (0.01, 0.7, 50.0):
        gains = divergence(LinearToy(spread).draw(num_mixing)).gain
        mean, error = mean_and_error(gains)
        assert mean >= -4 * error
        assert gains.max().item() <= math.log(num_mixing + 1) + 1e-12


def test_the_bound_rises_with_k_towards_the_exact_one_and_the_upper_bound_stays_above():
    toy = LinearToy()
    exact = toy.exact_kl()
    previous, previous_error = math.inf, 0.0
    for num_mixing in (0, 1, 4, 16, 64):
        result = divergence(toy.draw(num_mixing, num_draws=20_000))
        kl, error = mean_and_error(result.kl)  # a larger KL is a smaller bound
        assert kl <= previous + 4 * (error + previous_error)
        assert kl >= exact - 4 * error
        if num_mixing:
            upper, upper_error = mean_and_error(result.kl - result.bound_gap)
            assert upper <= exact + 4 * upper_error
        previous, previous_error = kl, error
    assert previous == pytest.approx(exact, abs=0.05)


def conjugate_toy(estimator, num_mixing, *, spread):
    """y ~ N(a, tau^2), a ~ N(0, I). The posterior is known; a part `spread` of its variance comes through eps."""
    tau2, y = 0.5, torch.tensor([0.8, -1.1, 0.3], dtype=torch.float64)
    variance = tau2 / (1 + tau2)
    centre = (y / (1 + tau2)).clone().requires_grad_()
    log_scale = torch.full((LATENT,), 0.5 * math.log(variance * (1 - spread)), dtype=torch.float64)
    log_scale.requires_grad_()
    toy = LinearToy()
    eps = toy.normal(20_000, num_mixing + 1, LATENT)
    psi = centre + math.sqrt(variance * spread) * eps
    draw = make_draw(psi[:, :1], psi[:, 1:], toy.normal(20_000, 1, LATENT), log_scale)
    latents = draw.psi_0 + draw.u * log_scale.exp()
    log_likelihood = Normal(latents, math.sqrt(tau2)).log_prob(y).sum(-1)
    zero = torch.zeros_like(y)
    log_evidence = Normal(zero, math.sqrt(1 + tau2)).log_prob(y).sum().item()
    objective = log_likelihood - divergence(draw, estimator).kl - log_evidence
    return objective, (centre, log_scale)


@pytest.mark.parametrize("estimator", ["total", "path"])
def test_the_objective_is_zero_at_the_exact_posterior_up_to_a_constant_of_the_evidence(estimator):
    mean, error = mean_and_error(conjugate_toy(estimator, 0, spread=0.0)[0].detach())
    assert mean == pytest.approx(0.0, abs=4 * error + 1e-9)


@pytest.mark.parametrize("estimator", ["total", "path"])
def test_an_implicit_posterior_that_is_exact_reaches_zero_from_below_as_k_grows(estimator):
    few, few_error = mean_and_error(conjugate_toy(estimator, 1, spread=0.4)[0].detach())
    many, many_error = mean_and_error(conjugate_toy(estimator, 100, spread=0.4)[0].detach())
    assert few < -4 * few_error
    assert few < many <= 4 * many_error
    assert many == pytest.approx(0.0, abs=0.02)


def test_the_path_gradient_vanishes_sample_by_sample_at_the_exact_posterior():
    objective, parameters = conjugate_toy("path", 0, spread=0.0)
    for weights in (torch.ones_like(objective), torch.linspace(-1, 2, 20_000, dtype=torch.float64)[:, None]):
        for gradient in torch.autograd.grad(objective, parameters, weights, retain_graph=True):
            torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-9)


def test_the_path_gradient_and_the_total_gradient_agree_in_expectation():
    def gradient(estimator, num_mixing=3):
        toy = LinearToy()
        map_ = toy.W.clone().requires_grad_()
        log_scale = toy.log_scale.clone().requires_grad_()
        psi = toy.normal(200_000, num_mixing + 1, 2) @ map_.T + toy.b
        draw = make_draw(psi[:, :1], psi[:, 1:], toy.normal(200_000, 1, LATENT), log_scale)
        return torch.autograd.grad(divergence(draw, estimator).kl.mean(), (map_, log_scale))

    for total, path in zip(gradient("total"), gradient("path"), strict=True):
        torch.testing.assert_close(total, path, rtol=0.03, atol=0.01)  # error of 200,000 draws: about 0.003


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [1e-4, 1.0, 1e3])
def test_nothing_underflows_at_the_width_of_a_whole_prompt(dtype, distance):
    generator = torch.Generator().manual_seed(1)
    centre = torch.zeros(7680, dtype=dtype, requires_grad=True)
    psi = centre + distance * torch.randn(2, 5, 7680, generator=generator, dtype=dtype)
    log_scale = torch.full((7680,), -1.0, dtype=dtype, requires_grad=True)
    u = torch.randn(2, 1, 7680, generator=generator, dtype=dtype)
    result = divergence(make_draw(psi[:, :1], psi[:, 1:], u, log_scale))
    result.kl.sum().backward()
    assert torch.isfinite(result.kl).all()
    assert torch.isfinite(result.gain).all()
    assert torch.isfinite(centre.grad).all()
    assert torch.isfinite(log_scale.grad).all()
    if distance >= 1.0:
        assert result.gain == pytest.approx(math.log(5), rel=1e-5)  # all other components are out of sight


def test_equal_components_gain_nothing():
    psi = torch.ones(2, 4, LATENT, dtype=torch.float64)
    u = LinearToy().normal(2, 1, LATENT)
    result = divergence(make_draw(psi[:, :1], psi[:, 1:], u, torch.zeros(LATENT, dtype=torch.float64)))
    torch.testing.assert_close(result.gain, torch.zeros(2, 1, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(result.bound_gap, torch.zeros(2, 1, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_point_estimate_pays_the_energy_of_its_latent():
    psi = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    result = divergence(make_draw(psi, psi[:, :0], psi[..., :0], None))
    assert isinstance(result, Divergence)
    assert result.kl.item() == 12.5
    assert result.gain.item() == 0.0


def test_a_shared_prompt_pays_nothing():
    empty = torch.zeros(2, 1, 0)
    assert torch.equal(divergence(make_draw(empty, empty[:, :0], empty, None)).kl, torch.zeros(2, 1))


def test_gains_have_known_values_for_known_ratios():
    ratios = torch.tensor([0.0, math.log(3.0)], dtype=torch.float64)
    assert gain(ratios).item() == pytest.approx(math.log(3) - math.log(5))
    assert gain_without_own(ratios).item() == pytest.approx(math.log(2) - math.log(4))


def test_the_standard_normal_has_no_gaussian_kl():
    zero = torch.zeros(4, dtype=torch.float64)
    assert gaussian_kl(zero, zero).item() == 0.0


def test_the_pull_is_the_kl_per_dimension_between_equally_wide_gaussians():
    mean, start = torch.tensor([0.3, -1.0]), torch.tensor([0.1, 0.5])
    scale = torch.tensor([0.2, 2.0])
    known = torch.distributions.kl_divergence(Normal(mean, scale), Normal(start, scale)).mean()
    torch.testing.assert_close(pull(mean, start, scale), known)
    assert pull(start, start, scale).item() == 0.0


def test_beta_warms_up_on_the_global_round():
    assert [beta_at(0.6, 3, number) for number in (1, 2, 3, 9)] == pytest.approx([0.2, 0.4, 0.6, 0.6])
    assert beta_at(0.6, 0, 1) == 0.6
