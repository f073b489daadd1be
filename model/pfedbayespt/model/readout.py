"""The read-out: a linear head over standardised features, and a site's own small correction of it.

    z      = (readout - mean) / std         [class token, patch mean, mid-block class token, mid-block cells]
    shared logits   = W z + b               leaves the site
    logits          = W z + b + W_r z + b_r     the residual (W_r, b_r) is personal and never leaves it

Rules:
1. Both heads start at zero, so an untrained model says "every class alike" and the head contains the linear probe.
2. The residual is trained on top of the shared logits, never through them: what leaves a site is the same bytes
   whether or not the site keeps a residual.
3. Balanced softmax (Ren et al. 2020): a site with `label_shift` trains softmax(shared logits + log pi), pi its own
   class prior, so the shared head is free of any one site's prior; at prediction a caller may add its own.
4. Where heads are cross-fitted (`cross_fitting.py`), there is a further shared head for each fold of the images.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from pfedbayespt.model._layers import zero_linear

_RELATIVE_STD_FLOOR = 1e-2
_ABSOLUTE_STD_FLOOR = 1e-6
_ABSENT_CLASS_COUNT = 0.1


class Moments(nn.Module):
    """First and second moments of features, kept in float64 because sites' moments are averaged exactly.

    They start as those of standardised features, so before the statistics round nothing is scaled.
    """

    mean: Tensor
    second_moment: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("second_moment", torch.ones(width, dtype=torch.float64))

    def std(self) -> Float[Tensor, " F"]:
        """Return the standard deviations; a feature that hardly varies counts as a hundredth of the typical one."""
        variance = (self.second_moment - self.mean.square()).clamp_min(0)
        floor = _RELATIVE_STD_FLOOR * variance.mean().sqrt() + _ABSOLUTE_STD_FLOOR
        return torch.maximum(variance.sqrt(), floor)

    def forward(self, features: Float[Tensor, "*B F"]) -> Float[Tensor, "*B F"]:
        """Return `features` standardised, in their own type."""
        return (features - self.mean.to(features.dtype)) * self.std().reciprocal().to(features.dtype)


class ReadOut(nn.Module):
    """The shared head, those of the folds if it is cross-fitted, and the personal residual if there is one."""

    def __init__(
        self, readout_dim: int, num_classes: int, *, personal_residual: bool, cross_fit_folds: int = 0
    ) -> None:
        super().__init__()
        self.head = zero_linear(readout_dim, num_classes)
        self.folds = zero_linear(readout_dim, cross_fit_folds * num_classes) if cross_fit_folds else None
        self.residual = zero_linear(readout_dim, num_classes) if personal_residual else None

    def forward(self, readout: Float[Tensor, "*B R"]) -> Float[Tensor, "*B C"]:
        """Return the site's logits: the shared head's, and the residual's on top."""
        shared: Tensor = self.head(readout)
        return shared if self.residual is None else shared + self.residual(readout)

    def held_out_logits(
        self, readout: Float[Tensor, "B S R"], fold: Int[Tensor, " B"] | None
    ) -> Float[Tensor, "B S C"]:
        """Return the logits that prompts are trained on: of the head that has not seen an image's fold.

        Without folds there is one head, which has seen them all.
        """
        if self.folds is None or fold is None:
            logits: Tensor = self.head(readout)
            return logits
        every = functional.linear(readout, self.folds.weight.detach(), self.folds.bias.detach())
        held_out: Tensor = every.view(*readout.shape[:2], -1, self.head.out_features)
        return held_out.take_along_dim(fold[:, None, None, None], dim=2).squeeze(2)

    def residual_logits(self, readout: Float[Tensor, "*B R"]) -> Float[Tensor, "*B C"] | None:
        """Return logits that send gradient to the residual alone, or None where there is none."""
        if self.residual is None:
            return None
        fixed = readout.detach()
        logits: Tensor = self.head(fixed).detach() + self.residual(fixed)
        return logits


def log_class_prior(labels: Int[Tensor, " N"], num_classes: int) -> Float[Tensor, " C"]:
    """Return log pi of a site's labels; a class it never saw counts as a tenth of an image, not as impossible."""
    counts = torch.bincount(labels, minlength=num_classes).to(torch.float32)
    counts = counts.clamp_min(_ABSENT_CLASS_COUNT)
    return counts.log() - counts.sum().log()


def cross_entropy(
    logits: Float[Tensor, "B S C"], labels: Int[Tensor, " B"], log_prior: Float[Tensor, " C"] | None = None
) -> Float[Tensor, "B S"]:
    """Return -log p(y|x,p) per image and sample; `log_prior` shifts the logits first."""
    shifted = logits if log_prior is None else logits + log_prior
    targets = labels[:, None].expand(shifted.shape[:2])
    return functional.cross_entropy(shifted.flatten(0, 1), targets.flatten(), reduction="none").view_as(
        targets
    )
