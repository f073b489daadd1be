"""What insertions share that let patches see prompts: they start from the state before the first prompted block.

deep:     each of the L blocks has P tokens of its own, which are gone after it
shallow:  P tokens join before the first of the L blocks and run through all of them
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion._attention import BlockRun, repeat_rows, run_block
from pfedbayespt.model.insertion.base import Insertion
from pfedbayespt.model.insertion.context import Context


@dataclass(frozen=True, eq=False)
class BoundaryContext(Context):
    """The frozen state where the prompted blocks take over.

    Attributes:
        tokens: class token, registers and patches before the first prompted block.
        mid: class token and means over the cells after the middle block.
    """

    tokens: Float[Tensor, "B N d"]
    mid: Float[Tensor, "B M"]


def num_steering_tokens(config: InsertionConfig) -> int:
    """Return T, the tokens that a two-way prompt has in all."""
    return config.prompt_length * (config.num_blocks if config.deep else 1)


class VisitedInsertion(Insertion):
    """An insertion whose L blocks are visited by prompts that patches see."""

    def _prompted_tokens(
        self, tokens: Float[Tensor, "b N d"], prompts: Float[Tensor, "b S D"]
    ) -> Float[Tensor, "B N d"]:
        """Return each sample's tokens after the prompted blocks, without shallow prompts."""
        prompted = tokens
        for run in self._run_prompted(tokens, prompts.reshape(-1, self.num_tokens, self.token_width)):
            prompted = run.tokens
        return prompted[:, : tokens.shape[1]]

    def _run_prompted(
        self, tokens: Float[Tensor, "b N d"], prompts: Float[Tensor, "B T d"]
    ) -> Iterator[BlockRun]:
        """Yield the run of each prompted block; shallow prompts stay behind the tokens to the end.

        With S rows of prompts per row of tokens (B = b S) the runs have B rows.
        """
        blocks = self.backbone.blocks[self._first : self._first + self.config.num_blocks]
        visitors: Sequence[Tensor | None] = [None] * self.config.num_blocks
        if self.config.deep:
            visitors = prompts.chunk(self.config.num_blocks, dim=1)
        else:
            tokens = torch.cat([repeat_rows(tokens, len(prompts) // len(tokens)), prompts], dim=1)
        for block, visiting in zip(blocks, visitors, strict=True):
            run = run_block(block, tokens, visiting)
            tokens = run.tokens
            yield run


class BoundaryInsertion(VisitedInsertion):
    """An insertion that keeps the boundary state and runs the last blocks itself."""

    context_type = BoundaryContext

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "B 3 H W"]) -> BoundaryContext:
        """Run the trunk up to the first prompted block, or the middle block if that comes later."""
        states, _ = self._run_frozen(images, {self._first, self.mid_block})
        boundary = states[self._first]
        return BoundaryContext(self._pool(boundary), boundary, self._survey(states[self.mid_block]))

    @torch.no_grad()
    def unprompted(self, context: Context) -> Float[Tensor, "B R"]:
        """Run the last blocks on the boundary state as it is."""
        held = self._restore(context, BoundaryContext)
        final = self.backbone.blocks[self._first :](held.tokens)
        return torch.cat([self._pool(self.backbone.final_norm(final)), held.mid], dim=1)
