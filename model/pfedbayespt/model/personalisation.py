"""A site's own head from a few labelled images, everything else frozen.

    z_is   standardised read-out of image i under sample s of its prompt, fixed
    loss   = mean_is -log softmax((W + W_r) z_is + b + b_r + log pi)_{y_i}  +  lambda / 2 |W_r, b_r|^2

    kind       lambda   what it is
    residual   0.03     a correction that stays near the federation's head: for a handful of images per class
    head       0.001    a head of the site's own, which only starts from the federation's: for many

log pi, only with `free_of_prior`, is the class prior of these images: what is learnt then knows nothing of how many
of each class happened to be chosen, and the site's true prior can be put on top.

The loss is strictly convex in (W_r, b_r), so L-BFGS finds the one minimum; only the draws of the prompts are
random, and they come from the seed. The lambdas are choices of this project.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pfedbayespt.model.classifier import PromptedClassifier
from pfedbayespt.model.config import ConfigError
from pfedbayespt.model.prediction import draw_noise
from pfedbayespt.model.readout import cross_entropy, log_class_prior
from pfedbayespt.model.sources import ContextSource

HeadKind = Literal["residual", "head"]
_DECAY: dict[HeadKind, float] = {"residual": 0.03, "head": 0.001}
_CHUNK = 32
_MAX_STEPS = 200


@dataclass(frozen=True)
class AdaptationConfig:
    """How a site's head is tuned.

    Attributes:
        kind: `residual` or `head`; see the table above.
        num_samples: prompt samples per image.
        seed: of the samples, 0 or more.
        free_of_prior: learn no class prior; for a federation that carries priors apart.
    """

    kind: HeadKind = "residual"
    num_samples: int = 4
    seed: int = 0
    free_of_prior: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(HeadKind):
            raise ConfigError(f"kind is {self.kind!r}; allowed: {', '.join(get_args(HeadKind))}")
        if self.num_samples < 1:
            raise ConfigError(f"num_samples is {self.num_samples}; allowed: 1 or more")


def adapt(model: PromptedClassifier, source: ContextSource, config: AdaptationConfig) -> None:
    """Tune the personal residual of `model` on the labelled images of `source`; nothing else changes.

    Raises:
        ValueError: the model has no residual, or there are no images.
    """
    residual = model.readout.residual
    if residual is None:
        raise ValueError("the model has no personal residual to tune")
    if len(source) == 0:
        raise ValueError("there are no images to adapt to")
    labels = source.labels.to(model.device)
    fixed, readout = _fixed_logits(model, source, config)
    if config.free_of_prior:
        fixed = fixed + log_class_prior(labels.cpu(), model.config.num_classes).to(fixed)
    nn.init.zeros_(residual.weight)
    nn.init.zeros_(residual.bias)
    _minimise(residual, fixed, readout, labels, _DECAY[config.kind])


@torch.no_grad()
def _fixed_logits(
    model: PromptedClassifier, source: ContextSource, config: AdaptationConfig
) -> tuple[Float[Tensor, "N S C"], Float[Tensor, "N S R"]]:
    """Return the shared head's logits and the read-outs they come from."""
    readouts = []
    for indices in torch.split(torch.arange(len(source)), _CHUNK):
        seeds = [(config.seed << 32) + int(index) for index in indices]
        noise = draw_noise(seeds, config.num_samples, model.posterior.noise_width).to(model.posterior.mean)
        context = source.batch(indices)
        readouts.append(model.read_out(context, model.draw(context, noise)))
    readout = torch.cat(readouts)
    return model.readout.head(readout), readout


def _minimise(
    residual: nn.Linear,
    fixed: Float[Tensor, "N S C"],
    readout: Float[Tensor, "N S R"],
    labels: Int[Tensor, " N"],
    decay: float,
) -> None:
    parameters = list(residual.parameters())
    optimizer = torch.optim.LBFGS(parameters, max_iter=_MAX_STEPS, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        size = torch.stack([parameter.square().sum() for parameter in parameters]).sum()
        value = cross_entropy(fixed + residual(readout), labels).mean() + decay / 2 * size
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    optimizer.zero_grad()
