"""Midway: two-way prompts in the L blocks that end at the middle block, where the read-out looks.

The read-out's class token and cells after the middle block are the prompted ones, so prompts change what the head
knows of what is where; the last class token and patch mean stay those of the frozen trunk, and are cached. A sample
costs L blocks in the middle of the trunk instead of its end, and nothing after them (docs/adr/0004).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pfedbayespt.model.backbone import Backbone
from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion._boundary import VisitedInsertion, num_steering_tokens
from pfedbayespt.model.insertion._layout import token_roles
from pfedbayespt.model.insertion.base import InsertionError
from pfedbayespt.model.insertion.context import Context


@dataclass(frozen=True, eq=False)
class MidwayContext(Context):
    """The frozen states on either side of what prompts change.

    Attributes:
        tokens: class token, registers and patches before the first prompted block.
        final: class token and patch mean after the final norm.
    """

    tokens: Float[Tensor, "B N d"]
    final: Float[Tensor, "B F"]


class MidwayInsertion(VisitedInsertion):
    """`midway(L)`: T = L P tokens if deep, else P.

    Raises:
        InsertionError: more blocks are prompted than there are before the middle block's end.
    """

    context_type = MidwayContext

    def __init__(
        self, config: InsertionConfig, backbone: Backbone, mid_block: int | None, grid_size: int
    ) -> None:
        super().__init__(config, backbone, mid_block, grid_size, token_roles(num_steering_tokens(config)))
        self._first = self.mid_block - config.num_blocks
        if self._first < 0:
            raise InsertionError(
                f"num_blocks is {config.num_blocks}; midway ends at block {self.mid_block}, "
                f"so allowed: 1 to {self.mid_block}"
            )

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "B 3 H W"]) -> MidwayContext:
        """Run the whole trunk once."""
        depth = self.backbone.depth
        states, _ = self._run_frozen(images, {self._first, depth})
        boundary = states[self._first]
        final = self._pool(self.backbone.final_norm(states[depth]))
        return MidwayContext(self._pool(boundary), boundary, final)

    def decode(
        self,
        context: Context,
        prompts: Float[Tensor, "B S D"],
        mean_prompt: Float[Tensor, "B D"],  # noqa: ARG002 - the samples alone act here
    ) -> Float[Tensor, "B S R"]:
        """Run each sample's sequence up to the middle block."""
        held = self._restore(context, MidwayContext)
        num_samples = prompts.shape[1]
        surveyed = self._survey(self._prompted_tokens(held.tokens, prompts))
        final = held.final.unsqueeze(1).expand(-1, num_samples, -1)
        return torch.cat([final, surveyed.view(-1, num_samples, surveyed.shape[1])], dim=2)

    @torch.no_grad()
    def unprompted(self, context: Context) -> Float[Tensor, "B R"]:
        """Run the blocks without prompts."""
        held = self._restore(context, MidwayContext)
        middle = self.backbone.blocks[self._first : self.mid_block](held.tokens)
        return torch.cat([held.final, self._survey(middle)], dim=1)
