"""The training objective: a lower bound on the evidence of one image (METHOD.md section 2; Yin & Zhou 2018).

    L_K  = E[ log p(y|x,p) ] - beta KL_sivi / L,       KL_sivi = KL( N(psi_0, s^2) || N(0, I) ) - G_K
    G_K  = log(K+1) - logsumexp(0, r_1, ..., r_K),     0 <= E[G_K] <= log(K+1)
    r_k  = log N(a; psi_k, s^2) - log N(a; psi_0, s^2) = - sum_d u_d delta_kd - 1/2 sum_d delta_kd^2
    delta_k = (psi_0 - psi_k) / s,                     u = (a - psi_0) / s
    U_K  = L_K with psi_0 left out of the mixture, so with the gain log(K) - logsumexp(r_1, ..., r_K)

psi_0 produced the sample a; psi_1 .. psi_K are fresh draws of the mixing distribution for the same image. With
beta / L = 1, L_K <= L <= U_K, where L is the bound with the intractable marginal h(a) = E_psi N(a; psi, s^2); L_K
does not decrease in K, and K = 0 is the Gaussian KL. Everything stays in the log domain: at D = 7680 a density
ratio is far outside any floating-point range.

A `deterministic` family is the limit s -> 0 without the constants: its KL is -log N(psi; 0, I) up to a constant,
the penalty of a MAP estimate. A `shared` prompt has no latent and no KL.

The prior is centred on the federation: a site starts the round at m_0, the server's prompt, and

    pull(m) = 1/2 mean_d ( (m_d - m_0d) / sigma_d )^2,     sigma = `prompt_scale` times the prompt's own scale,

the KL per dimension between N(m, sigma^2) and N(m_0, sigma^2), enters the loss with the weight beta as well.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pfedbayespt.model.config import GradientEstimator
from pfedbayespt.model.posterior import PromptDraw


@dataclass(frozen=True)
class Divergence:
    """KL_sivi and its parts, per image and sample, in nats.

    Attributes:
        kl: the differentiable KL_sivi (an unbiased estimate of it for the path gradient).
        gain: G_K, what the mixture takes off the Gaussian KL; no gradient.
        bound_gap: U_K - L_K at beta / L = 1, the diagnostic for a larger K; no gradient. 0 at K = 0.
    """

    kl: Float[Tensor, "B S"]
    gain: Float[Tensor, "B S"]
    bound_gap: Float[Tensor, "B S"]


def divergence(draw: PromptDraw, estimator: GradientEstimator = "total") -> Divergence:
    """Return KL_sivi of `draw` to the prior N(0, I).

    `total` differentiates the bound as written, through a, psi_0 and every psi_k. `path` leaves out the score
    term, whose expectation is zero since, by exchangeability, a may as well have come from any psi_k; its
    variance vanishes where the posterior is exact (Roeder et al. 2017).
    """
    if draw.log_scale is None:
        energy = 0.5 * draw.psi_0.square().sum(-1)
        return Divergence(energy, torch.zeros_like(energy.detach()), torch.zeros_like(energy.detach()))
    ratios = log_density_ratios(draw.u, draw.psi_0, draw.psi_mixing, draw.log_scale)
    if estimator == "path":
        kl = _path_kl(draw.u, draw.psi_0, draw.psi_mixing, draw.log_scale)
    else:
        kl = gaussian_kl(draw.psi_0, draw.log_scale) - gain(ratios)
    detached = ratios.detach()
    lower = gain(detached)
    upper = gain_without_own(detached) if detached.shape[-1] else lower
    return Divergence(kl, lower, upper - lower)


def gaussian_kl(psi: Float[Tensor, "*B L"], log_scale: Float[Tensor, " L"]) -> Float[Tensor, "*B"]:
    """Return KL( N(psi, s^2) || N(0, I) ) in nats."""
    variance = (2 * log_scale).exp()
    return 0.5 * (psi.square() + variance - 1 - 2 * log_scale).sum(-1)


def log_density_ratios(
    u: Float[Tensor, "B S L"],
    psi_0: Float[Tensor, "B S L"],
    psi_mixing: Float[Tensor, "B K L"],
    log_scale: Float[Tensor, " L"],
) -> Float[Tensor, "B S K"]:
    """Return r_k = log N(a; psi_k, s^2) - log N(a; psi_0, s^2) at a = psi_0 + s u."""
    delta = (psi_0[:, :, None] - psi_mixing[:, None]) * (-log_scale).exp()
    return -(delta * (u[:, :, None] + 0.5 * delta)).sum(-1)


def gain(ratios: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """Return G_K, exactly zero at K = 0."""
    own = ratios.new_zeros(*ratios.shape[:-1], 1)
    return math.log(ratios.shape[-1] + 1) - torch.cat([own, ratios], dim=-1).logsumexp(-1)


def gain_without_own(ratios: Float[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """Return the gain of U_K, with psi_0 left out of the mixture; K must be 1 or more."""
    return math.log(ratios.shape[-1]) - ratios.logsumexp(-1)


def pull(
    mean: Float[Tensor, " D"], prior_mean: Float[Tensor, " D"], scale: Float[Tensor, " D"]
) -> Float[Tensor, ""]:
    """Return how far m has moved from the round's start, in nats per dimension on the scale sigma."""
    return 0.5 * ((mean - prior_mean) / scale).square().mean()


def beta_at(beta: float, warmup_rounds: int, round_number: int) -> float:
    """Return beta in a training round of the federation: it rises linearly over the first `warmup_rounds`."""
    return beta * min(1.0, round_number / warmup_rounds) if warmup_rounds else beta


def _path_kl(
    u: Float[Tensor, "B S L"],
    psi_0: Float[Tensor, "B S L"],
    psi_mixing: Float[Tensor, "B K L"],
    log_scale: Float[Tensor, " L"],
) -> Float[Tensor, "B S"]:
    """Return log h_K(a) - log N(a; 0, I) as a function of the sample alone: h_K's own parameters are constants."""
    latents = psi_0 + u * log_scale.exp()
    fixed_0, fixed_mixing, fixed_scale = psi_0.detach(), psi_mixing.detach(), log_scale.detach()
    residual = (latents - fixed_0) * (-fixed_scale).exp()
    own_density = -0.5 * residual.square().sum(-1) - fixed_scale.sum()
    mixture_density = own_density - gain(log_density_ratios(residual, fixed_0, fixed_mixing, fixed_scale))
    return mixture_density + 0.5 * latents.square().sum(-1)
