"""The prompt generator: frozen image features and mixing noise in, the centre of a latent Gaussian out.

    psi = g_phi(f, eps):    h_1 = gelu(W_f f + V_1 eps + b_1)
                            h_2 = gelu(W_h h_1 + V_2 eps + b_2)
                            psi = W_o (mask * h_2) + b_o

METHOD: the semi-implicit posterior of Yin & Zhou (2018) as Ye et al. (2025, arXiv 2508.19621) use it; the
architecture is our choice. eps enters at the input and again at the hidden layer, because noise that enters once
is easily learned away. W_o starts near zero, so training starts at the shared prompt, but not at zero, where the
bound's gain is flat in eps. W_o maps `hidden_dim` numbers to the latent, so even `latent="full"` is of low rank.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from pfedbayespt.model._layers import normal_linear

_OUTPUT_GAIN = 0.1


class PromptGenerator(nn.Module):
    """g_phi. With `noise_dim` 0 it ignores eps and is an ordinary network."""

    def __init__(
        self,
        *,
        feature_dim: int,
        hidden_dim: int,
        latent_size: int,
        noise_dim: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.features = normal_linear(feature_dim, hidden_dim, generator)
        self.hidden = normal_linear(hidden_dim, hidden_dim, generator)
        self.output = normal_linear(hidden_dim, latent_size, generator, gain=_OUTPUT_GAIN)
        self.input_noise: nn.Linear | None = None
        self.hidden_noise: nn.Linear | None = None
        if noise_dim:
            self.input_noise = normal_linear(noise_dim, hidden_dim, generator, bias=False)
            self.hidden_noise = normal_linear(noise_dim, hidden_dim, generator, bias=False)

    def forward(
        self,
        features: Float[Tensor, "B F"],
        eps: Float[Tensor, "B N n"],
        mask: Float[Tensor, "B h"] | None = None,
    ) -> Float[Tensor, "B N L"]:
        """Return one psi per image and draw of eps.

        Args:
            features: standardised frozen features.
            eps: N draws per image; `n` may be 0, and then all N results are equal.
            mask: dropout mask over h_2, one per image: all draws of an image see the same network, so the
                bound stays a bound for that network.
        """
        hidden = gelu(_plus_noise(self.features(features)[:, None], self.input_noise, eps))
        hidden = gelu(_plus_noise(self.hidden(hidden), self.hidden_noise, eps))
        if mask is not None:
            hidden = hidden * mask[:, None]
        psi: Tensor = self.output(hidden)
        return psi.expand(-1, eps.shape[1], -1)


def dropout_mask(
    shape: tuple[int, ...], rate: float, *, generator: torch.Generator, device: torch.device
) -> Tensor | None:
    """Return an inverted dropout mask (0 or 1 / (1 - rate)) drawn from `generator`, or None at rate 0."""
    if rate == 0:
        return None
    keep = torch.rand(shape, generator=generator, device=device) >= rate
    return keep / (1 - rate)


def _plus_noise(
    hidden: Float[Tensor, "B _ h"], layer: nn.Linear | None, eps: Float[Tensor, "B N n"]
) -> Tensor:
    return hidden if layer is None else hidden + layer(eps)
