"""Two-way prompts: tokens in the sequence of the last L blocks, which patches attend to (visual prompt tuning).

L = depth is visual prompt tuning as published, deep or shallow. The blocks before the first prompted one are shared
by all samples of an image; each sample runs the L blocks in full.
Source: Jia et al., "Visual Prompt Tuning", ECCV 2022.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pfedbayespt.model.backbone import Backbone
from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion._boundary import BoundaryContext, BoundaryInsertion, num_steering_tokens
from pfedbayespt.model.insertion._layout import token_roles
from pfedbayespt.model.insertion.context import Context


class TwoWayInsertion(BoundaryInsertion):
    """`twoway(L)`: T = L P tokens if deep, else P."""

    def __init__(
        self, config: InsertionConfig, backbone: Backbone, mid_block: int | None, grid_size: int
    ) -> None:
        super().__init__(config, backbone, mid_block, grid_size, token_roles(num_steering_tokens(config)))

    def decode(
        self,
        context: Context,
        prompts: Float[Tensor, "B S D"],
        mean_prompt: Float[Tensor, "B D"],  # noqa: ARG002 - the samples alone act here
    ) -> Float[Tensor, "B S R"]:
        """Run each sample's sequence; its class token and patch mean are the prompted ones."""
        held = self._restore(context, BoundaryContext)
        num_samples = prompts.shape[1]
        final = self.backbone.final_norm(self._prompted_tokens(held.tokens, prompts))
        prompted = self._pool(final).view(-1, num_samples, self.feature_dim)
        return torch.cat([prompted, held.mid.unsqueeze(1).expand(-1, num_samples, -1)], dim=2)
