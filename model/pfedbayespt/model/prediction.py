"""Prediction and its doubt (METHOD.md section 5). All entropies are in nats, H(p) = -sum p log p.

    p_s = softmax(logits_s),   pbar = mean_s p_s         probabilities are averaged, never logits
    total = H(pbar),   aleatoric = mean_s H(p_s),   epistemic = total - aleatoric >= 0
    epistemic, corrected = epistemic S / (S - 1)         the plug-in estimate is low by about 1 - 1/S
    prompt variance = mean over the prompt of Var_s(p)

From A draws of eps with G draws of u each, pbar_a = mean_g p_ag, the epistemic part splits into

    implicit = H(pbar) - mean_a H(pbar_a)                what the mixing noise eps says about y
    explicit = mean_a H(pbar_a) - mean_ag H(p_ag)        what u says about y once eps is known

Noise is a function of the seed alone, and the first rows do not depend on how many follow: S = 8 is the head of
S = 16. The default seed is a function of the image's bytes and the model version, so an answer can be replayed.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pfedbayespt.model.classifier import PromptedClassifier
from pfedbayespt.model.insertion import Context

_SEED_DOMAIN = b"pfedbayespt.prediction/1"


@dataclass(frozen=True)
class Predictive:
    """The posterior predictive of a batch of images, in float32; variance and entropies as above."""

    probabilities: Float[Tensor, "B C"]
    sample_probabilities: Float[Tensor, "B S C"]
    total: Float[Tensor, " B"]
    aleatoric: Float[Tensor, " B"]
    epistemic: Float[Tensor, " B"]
    epistemic_corrected: Float[Tensor, " B"]
    prompt_variance: Float[Tensor, " B"]

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are: a model of huge parameters may overflow."""
        numbers = (self.probabilities, self.epistemic_corrected, self.prompt_variance)
        return all(bool(tensor.isfinite().all()) for tensor in numbers)

    def doubt_of(self, index: int) -> dict[str, float]:
        """Return the image's entropies in nats and its prompt variance, by the names that answers give them."""
        return {
            "total_entropy_nats": float(self.total[index]),
            "aleatoric_entropy_nats": float(self.aleatoric[index]),
            "epistemic_entropy_nats": float(self.epistemic[index]),
            "epistemic_entropy_corrected_nats": float(self.epistemic_corrected[index]),
            "prompt_variance": float(self.prompt_variance[index]),
        }


@dataclass(frozen=True)
class EpistemicSplit:
    """The two parts of the epistemic entropy; they sum to it.

    The corrected parts take off what finite groups add: the mean over G draws of u still holds 1/G of the explicit
    part. They are clipped at zero.
    """

    implicit: Float[Tensor, " B"]
    explicit: Float[Tensor, " B"]
    implicit_corrected: Float[Tensor, " B"]
    explicit_corrected: Float[Tensor, " B"]


def derive_seed(image: bytes, model_digest: str) -> int:
    """Return the default seed (uint64) of a prediction for the image file `image` by the given model version."""
    digest = hashlib.sha256(_SEED_DOMAIN + model_digest.encode() + b"\0" + image).digest()
    return int.from_bytes(digest[:8], "big")


def draw_noise(seeds: Sequence[int], num_samples: int, width: int) -> Float[Tensor, "B S W"]:
    """Return standard normal noise, on the CPU: `num_samples` rows per seed (uint64)."""
    streams = (np.random.Generator(np.random.Philox(key=int(seed))) for seed in seeds)
    rows = [stream.standard_normal((num_samples, width), dtype=np.float32) for stream in streams]
    return torch.from_numpy(np.stack(rows))


@torch.no_grad()
def predict(
    model: PromptedClassifier,
    context: Context,
    noise: Float[Tensor, "B S W"],
    class_prior: Float[Tensor, " C"] | None = None,
) -> Predictive:
    """Return the posterior predictive of the images behind `context`.

    Args:
        model: the classifier; its personal residual is used where it has one.
        context: the encoded images.
        noise: one row of `model.posterior.noise_width` numbers per sample, from `draw_noise`.
        class_prior: the caller's own class frequencies, for a head trained with `label_shift` (logit adjustment).
    """
    rows = noise.to(model.posterior.mean)
    if model.posterior.noise_width == 0:
        rows = rows[:, :1]  # without noise one sample is as good as many, and agrees with itself exactly
    draw = model.draw(context, rows)
    logits = model.readout(model.read_out(context, draw))
    if class_prior is not None:
        logits = logits + class_prior.to(logits).log()
    predictive = _summarise(logits.softmax(-1), _mean_variance(draw.prompts))
    samples = predictive.sample_probabilities.expand(-1, noise.shape[1], -1)
    return replace(predictive, sample_probabilities=samples)


def epistemic_split(
    model: PromptedClassifier,
    context: Context,
    seeds: Sequence[int],
    *,
    num_groups: int = 8,
    group_size: int = 8,
) -> EpistemicSplit:
    """Return the implicit and the explicit part for each image, from `num_groups` eps with `group_size` u each."""
    noise = nested_noise(
        seeds, num_groups, group_size, model.posterior.noise_dim, model.posterior.noise_width
    )
    return split_epistemic(predict(model, context, noise).sample_probabilities, num_groups)


def nested_noise(
    seeds: Sequence[int], num_groups: int, group_size: int, noise_dim: int, width: int
) -> Float[Tensor, "B S W"]:
    """Return rows [eps, u] in groups: eps, the first `noise_dim` numbers, is equal within a group."""
    noise = draw_noise(seeds, num_groups * group_size, width)
    first = noise[:, ::group_size, :noise_dim]
    return torch.cat([first.repeat_interleave(group_size, dim=1), noise[..., noise_dim:]], dim=-1)


def split_epistemic(samples: Float[Tensor, "B S C"], num_groups: int) -> EpistemicSplit:
    """Split the epistemic entropy of samples that lie group by group; S is a multiple of `num_groups` >= 2."""
    grouped = samples.reshape(samples.shape[0], num_groups, -1, samples.shape[-1])
    group_size = grouped.shape[2]
    group_entropy = entropy(grouped.mean(2)).mean(1)
    implicit = entropy(samples.mean(1)) - group_entropy
    explicit = group_entropy - entropy(samples).mean(1)
    explicit_corrected = explicit * _small_sample_factor(group_size)
    between = implicit * _small_sample_factor(num_groups) - explicit_corrected / group_size
    return EpistemicSplit(implicit, explicit, between.clamp_min(0), explicit_corrected.clamp_min(0))


def entropy(probabilities: Float[Tensor, "*B C"]) -> Float[Tensor, "*B"]:
    """Return H(p) in nats; 0 log 0 is 0."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(-1)


def _summarise(samples: Float[Tensor, "B S C"], prompt_variance: Float[Tensor, " B"]) -> Predictive:
    probabilities = samples.mean(1).clamp_max(1)  # above one, and entropies below zero, are rounding
    total, aleatoric = entropy(probabilities), entropy(samples).mean(1).clamp_min(0)
    epistemic = (total - aleatoric).clamp_min(0)  # H is concave: below zero is rounding
    return Predictive(
        probabilities=probabilities,
        sample_probabilities=samples,
        total=total,
        aleatoric=aleatoric,
        epistemic=epistemic,
        epistemic_corrected=epistemic * _small_sample_factor(samples.shape[1]),
        prompt_variance=prompt_variance,
    )


def _mean_variance(prompts: Float[Tensor, "B S D"]) -> Float[Tensor, " B"]:
    """Return the mean over D of the variance over S, by plain sums: `Tensor.var` takes five times as long."""
    num_samples, width = prompts.shape[1:]
    squares = (prompts - prompts.mean(1, keepdim=True)).square().sum((1, 2))
    return squares / (max(num_samples - 1, 1) * max(width, 1))


def _small_sample_factor(size: int) -> float:
    return size / (size - 1) if size > 1 else 1.0
