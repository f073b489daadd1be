"""No prompts: the head reads the frozen trunk, and a sample costs nothing (docs/adr/0008).

A prompt has no tokens here, so every sample is the same read-out: the linear probe's input.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pfedbayespt.model.backbone import Backbone
from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion.base import Insertion
from pfedbayespt.model.insertion.context import Context


@dataclass(frozen=True, eq=False)
class UnpromptedContext(Context):
    """All that is ever read of an image.

    Attributes:
        readout: class token and patch mean after the final norm, class token and cells of the middle block.
    """

    readout: Float[Tensor, "B R"]


class UnpromptedInsertion(Insertion):
    """`none`: no tokens in no block."""

    context_type = UnpromptedContext

    def __init__(
        self, config: InsertionConfig, backbone: Backbone, mid_block: int | None, grid_size: int
    ) -> None:
        super().__init__(config, backbone, mid_block, grid_size, roles=())

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "B 3 H W"]) -> UnpromptedContext:
        """Run the whole trunk once; no generator reads the features, so they are those after the final norm."""
        depth = self.backbone.depth
        states, _ = self._run_frozen(images, {self.mid_block, depth})
        final = self._pool(self.backbone.final_norm(states[depth]))
        return UnpromptedContext(final, torch.cat([final, self._survey(states[self.mid_block])], dim=1))

    def decode(
        self,
        context: Context,
        prompts: Float[Tensor, "B S D"],
        mean_prompt: Float[Tensor, "B D"],  # noqa: ARG002 - there is nothing in it
    ) -> Float[Tensor, "B S R"]:
        """Return the same read-out for each sample."""
        return self.unprompted(context)[:, None].expand(-1, prompts.shape[1], -1)

    @torch.no_grad()
    def unprompted(self, context: Context) -> Float[Tensor, "B R"]:
        """Return what is kept."""
        return self._restore(context, UnpromptedContext).readout
