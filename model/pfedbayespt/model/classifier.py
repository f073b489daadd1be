"""The classifier: a frozen trunk, a prompt posterior per image, and a linear read-out.

    context = encode(x)                        once per image, frozen, no gradient
    p_s     = posterior(standardised f, noise_s)   noise_s = [eps, u], one row per sample
    logits  = head(standardised decode(context, p_s))

y ~ Cat(softmax(logits)), METHOD.md section 1. All but `decode` is small and stays in float32.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pfedbayespt.model.backbone import Backbone
from pfedbayespt.model.config import ModelConfig
from pfedbayespt.model.insertion import Context, Insertion, build_insertion
from pfedbayespt.model.posterior import PromptDraw, PromptPosterior
from pfedbayespt.model.readout import Moments, ReadOut


class PromptedClassifier(nn.Module):
    """Insertion, prompt posterior and read-out, with the statistics that standardise features between them.

    `parameters.py` says which of its parameters are shared and which are personal; the trunk's are neither.
    """

    class_frequencies: Tensor | None

    def __init__(self, config: ModelConfig, insertion: Insertion, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.insertion = insertion
        self.feature_moments = Moments(insertion.feature_dim)
        self.readout_moments = Moments(insertion.readout_dim)
        self._register_class_frequencies()
        self.posterior = PromptPosterior(
            config.posterior,
            feature_dim=insertion.feature_dim,
            num_tokens=insertion.num_tokens,
            initial_prompt=_exact(insertion.initial_prompt(generator)),
            prompt_scale=_exact(insertion.prompt_scale()),
            generator=generator,
        )
        self.readout = ReadOut(
            insertion.readout_dim,
            config.num_classes,
            personal_residual=config.head.personal_residual,
            cross_fit_folds=config.head.cross_fit_folds if insertion.num_tokens else 0,
        )
        self.to(insertion.prompt_scale().device)

    def _register_class_frequencies(self) -> None:
        """Keep the shares of the classes over all sites' images, where heads in closed form have to know them."""
        head, size = self.config.head, self.config.num_classes
        known = head.label_shift and head.cross_fit_folds > 0
        alike = torch.full((size,), 1 / size, dtype=torch.float64) if known else None
        self.register_buffer("class_frequencies", alike)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.posterior.mean.device

    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Context:
        """Return what all samples of an image share; no gradient."""
        return self.insertion.encode(images)

    def draw(
        self,
        context: Context,
        noise: Float[Tensor, "B S W"],
        mixing_noise: Float[Tensor, "B K n"] | None = None,
        mask: Float[Tensor, "B h"] | None = None,
    ) -> PromptDraw:
        """Return the prompts that `noise` stands for; see `PromptPosterior.draw`."""
        features = self.feature_moments(context.features.to(self.posterior.mean.dtype))
        return self.posterior.draw(features, noise, mixing_noise, mask)

    def read_out(
        self, context: Context, draw: PromptDraw, *, mixed_precision: bool = False
    ) -> Float[Tensor, "B S R"]:
        """Return the standardised read-out of each sample.

        Args:
            context: of the same images as `draw`.
            draw: the prompts.
            mixed_precision: let the trunk compute in bfloat16; on CUDA only.
        """
        on_cuda = self.device.type == "cuda"
        prompts, central = (
            part.to(self.insertion.backbone.dtype) for part in (draw.prompts, draw.central_prompt)
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed_precision and on_cuda):
            readout = self.insertion.decode(context, prompts, central)
        standardised: Tensor = self.readout_moments(readout.to(self.posterior.mean.dtype))
        return standardised

    def logits(self, context: Context, noise: Float[Tensor, "B S W"]) -> Float[Tensor, "B S C"]:
        """Return the logits of each sample, the site's personal residual included."""
        logits: Tensor = self.readout(self.read_out(context, self.draw(context, noise)))
        return logits


def build_classifier(
    config: ModelConfig, backbone: Backbone, generator: torch.Generator
) -> PromptedClassifier:
    """Return an untrained classifier on the backbone's device, drawn from `generator`, which is on the CPU."""
    insertion = build_insertion(config.insertion, backbone, config.head.mid_block, config.head.grid_size)
    return PromptedClassifier(config, insertion, generator)


def _exact(prompt: Tensor) -> Tensor:
    """Return the prompt in float32 or better, in whatever the trunk computes."""
    return prompt.to(torch.promote_types(prompt.dtype, torch.float32))
