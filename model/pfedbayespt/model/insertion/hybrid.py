"""Hybrid: the posterior's mean prompt steers the patches once per image, and sampled prefixes act on top.

A prompt's first T tokens are two-way tokens, taken from the mean prompt only; the others are prefixes, taken from
the samples. The last L blocks run once per image with the steering tokens in the sequence; alongside, each sample's
class token looks at the steered registers, patches and steering tokens, at itself and at its prefix. With a prefix
of zero values every sample is the two-way model under the mean prompt.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pfedbayespt.model.backbone import Backbone
from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion._attention import run_block_on_class_tokens
from pfedbayespt.model.insertion._boundary import BoundaryContext, BoundaryInsertion, num_steering_tokens
from pfedbayespt.model.insertion._layout import prefix_roles, token_roles
from pfedbayespt.model.insertion.context import Context
from pfedbayespt.model.insertion.prefix import split_prefixes


class HybridInsertion(BoundaryInsertion):
    """`hybrid(L)`: the T tokens of `twoway(L)`, then the 2 P L of `prefix(L)`."""

    def __init__(
        self, config: InsertionConfig, backbone: Backbone, mid_block: int | None, grid_size: int
    ) -> None:
        steering = token_roles(num_steering_tokens(config))
        prefixes = prefix_roles(config.num_blocks, config.prompt_length)
        super().__init__(config, backbone, mid_block, grid_size, steering + prefixes)
        self._num_steering = len(steering)

    def decode(
        self, context: Context, prompts: Float[Tensor, "B S D"], mean_prompt: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B S R"]:
        """Run the steered sequence once, and one class token per sample beside it."""
        held = self._restore(context, BoundaryContext)
        split = self._num_steering * self.token_width
        steering = mean_prompt[:, :split].reshape(-1, self._num_steering, self.token_width)
        prefixes = split_prefixes(prompts[:, :, split:], self.config)
        blocks, runs = self.backbone.blocks[self._first :], self._run_prompted(held.tokens, steering)
        tokens = held.tokens
        states = tokens[:, :1]  # one class token for all samples, until the first prefix
        for block, run, prefix in zip(blocks, runs, prefixes, strict=True):
            states = run_block_on_class_tokens(
                block, states, run.keys, run.values, prefix, instead_of_first=True
            )
            tokens = run.tokens
        final = self.backbone.final_norm(tokens[:, : held.tokens.shape[1]])  # without shallow tokens
        fixed = torch.cat([self._patch_mean(final), held.mid], dim=1)
        fixed = fixed.unsqueeze(1).expand(-1, prompts.shape[1], -1)
        return torch.cat([self.backbone.final_norm(states), fixed], dim=2)
