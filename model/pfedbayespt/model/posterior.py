"""The posterior over the prompts of one image (METHOD.md section 1; Ye et al. 2025, after Yin & Zhou 2018).

    eps ~ N(0, I_n)                  mixing noise, the implicit part
    psi = g_phi(f(x), eps)           centre of the latent, R^L
    a   = psi + s u,  u ~ N(0, I_L)  explicit part; s = exp(log s) does not depend on psi
    p   = m + R a,  R = diag(sigma_0) M      `lowrank`: one latent of q numbers for the whole prompt
    p_t = m_t + R_t a_t              `token`: one latent of q numbers per prompt token t
    p   = m + sigma_0 a              `full`: the latent is the prompt, on the prompt's own scale sigma_0
    prior: a ~ N(0, I)

M is what is learned, not R: an optimiser that steps every number alike, as Adam does, would blow up the rows of
small scale, such as the values of a prefix, and the noise with them.

Families: `semi_implicit` is the above; `gaussian` has no eps; `deterministic` has neither eps nor u, so a = psi;
`shared` has no latent at all, so p = m for every image.

Noise is always handed in, never drawn here: a row of noise is [eps, u], so the same noise gives the same prompt.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pfedbayespt.model.config import PosteriorConfig
from pfedbayespt.model.generator import PromptGenerator

LOG_SCALE_RANGE = (-5.0, 1.0)
"""log s is clamped to this: neither a collapsed nor an exploding conditional trains any further."""


@dataclass(frozen=True)
class PromptDraw:
    """S posterior samples per image, and what the objective needs to know about them.

    Attributes:
        prompts: p, the samples.
        central_prompt: m + R g_phi(f, 0), the same for any number of samples.
        psi_0: the centre that each sample came from.
        psi_mixing: psi_1 .. psi_K, fresh draws for the same image, shared by its samples.
        u: explicit noise, (a - psi_0) / s; of width 0 if the family has none.
        log_scale: log s, clamped; None if the family has no explicit noise.
    """

    prompts: Float[Tensor, "B S D"]
    central_prompt: Float[Tensor, "B D"]
    psi_0: Float[Tensor, "B S L"]
    psi_mixing: Float[Tensor, "B K L"]
    u: Float[Tensor, "B S U"]
    log_scale: Float[Tensor, " L"] | None


class PromptPosterior(nn.Module):
    """The posterior's parameters: the shared prompt m, the map M, the scale s and the generator phi.

    Attributes:
        latent_size: L, the width of the latent; 0 for `shared`.
        noise_dim: n, the width of eps in a row of noise; 0 if the family has no mixing noise.
        noise_width: width of a row of noise [eps, u].
    """

    prompt_scale: Tensor

    def __init__(
        self,
        config: PosteriorConfig,
        *,
        feature_dim: int,
        num_tokens: int,
        initial_prompt: Float[Tensor, " D"],
        prompt_scale: Float[Tensor, " D"],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.config = config
        self.num_groups = num_tokens if config.latent == "token" else 1
        self.latent_size = _latent_size(config, num_tokens, initial_prompt.numel())
        self.noise_dim = config.noise_dim if config.family == "semi_implicit" else 0
        explicit = config.family in ("semi_implicit", "gaussian")
        self.noise_width = self.noise_dim + (self.latent_size if explicit else 0)
        self.register_buffer("prompt_scale", prompt_scale.detach().clone(), persistent=False)
        self.mean = nn.Parameter(initial_prompt.detach().clone())
        self.map = _initial_map(config, self.prompt_scale, generator)
        self.log_scale = nn.Parameter(torch.zeros(self.latent_size)) if explicit else None
        self.generator: PromptGenerator | None = None
        if config.family != "shared":
            self.generator = PromptGenerator(
                feature_dim=feature_dim,
                hidden_dim=config.hidden_dim,
                latent_size=self.latent_size,
                noise_dim=self.noise_dim,
                generator=generator,
            )

    def draw(
        self,
        features: Float[Tensor, "B F"],
        noise: Float[Tensor, "B S W"],
        mixing_noise: Float[Tensor, "B K n"] | None = None,
        mask: Float[Tensor, "B h"] | None = None,
    ) -> PromptDraw:
        """Return the prompts that `noise` stands for.

        Args:
            features: standardised generator features.
            noise: rows [eps, u], `noise_width` numbers each.
            mixing_noise: eps of psi_1 .. psi_K; None where no objective is computed.
            mask: the generator's dropout mask.

        Raises:
            ValueError: the noise is not of this posterior's width.
        """
        num_samples, width = noise.shape[1:]
        if width != self.noise_width:
            raise ValueError(f"noise rows have {width} numbers; this posterior takes {self.noise_width}")
        eps, u = noise[..., : self.noise_dim], noise[..., self.noise_dim :]
        mixing = eps[:, :0] if mixing_noise is None else mixing_noise
        central = eps.new_zeros(eps.shape[0], 1, self.noise_dim)
        psi = self.centres(features, torch.cat([eps, mixing, central], dim=1), mask)
        psi_0, psi_mixing, psi_central = psi[:, :num_samples], psi[:, num_samples:-1], psi[:, -1:]
        log_scale = None if self.log_scale is None else self.log_scale.clamp(*LOG_SCALE_RANGE)
        latents = psi_0 if log_scale is None else psi_0 + u * log_scale.exp()
        return PromptDraw(
            prompts=self.prompts(latents),
            central_prompt=self.prompts(psi_central)[:, 0],
            psi_0=psi_0,
            psi_mixing=psi_mixing,
            u=u,
            log_scale=log_scale,
        )

    def centres(
        self,
        features: Float[Tensor, "B F"],
        eps: Float[Tensor, "B N n"],
        mask: Float[Tensor, "B h"] | None = None,
    ) -> Float[Tensor, "B N L"]:
        """Return psi for N draws of eps per image."""
        if self.generator is None:
            return features.new_zeros(*eps.shape[:2], 0)
        psi: Tensor = self.generator(features, eps, mask)
        return psi

    def prompts(self, latents: Float[Tensor, "B S L"]) -> Float[Tensor, "B S D"]:
        """Return p = m + R a."""
        if self.config.family == "shared":
            return self.mean.expand(*latents.shape[:2], -1)
        if self.map is None:
            return self.mean + self.config.prompt_scale * self.prompt_scale * latents
        grouped = latents.reshape(*latents.shape[:2], self.num_groups, -1)
        maps = (self.prompt_scale[:, None] * self.map).reshape(self.num_groups, -1, self.config.latent_dim)
        return self.mean + torch.einsum("bsgq,gwq->bsgw", grouped, maps).flatten(2)


def _latent_size(config: PosteriorConfig, num_tokens: int, prompt_size: int) -> int:
    if config.family == "shared":
        return 0
    return {
        "lowrank": config.latent_dim,
        "token": config.latent_dim * num_tokens,
        "full": prompt_size,
    }[config.latent]


def _initial_map(
    config: PosteriorConfig, prompt_scale: Float[Tensor, " D"], generator: torch.Generator
) -> nn.Parameter | None:
    """Draw M such that R a, a ~ N(0, I), has `config.prompt_scale` of the prompt's own rms in each coordinate."""
    if config.family == "shared" or config.latent == "full":
        return None
    directions = torch.randn(prompt_scale.numel(), config.latent_dim, generator=generator)
    gain = config.prompt_scale / math.sqrt(config.latent_dim)
    return nn.Parameter(directions.to(prompt_scale) * gain)
