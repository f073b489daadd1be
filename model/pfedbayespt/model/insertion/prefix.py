"""One-way prefixes: free keys and values that only the class token sees, in each of the last L blocks.

For sample s, in each prompted block, with c_s the class token's state and q_s its query, (k, v) the frozen keys and
values of registers and patches, (k_c, v_c) those of c_s itself, and (K_s, V_s) the prefix of P free pairs:

    mixed_s = softmax(q_s [k, k_c]^T / sqrt(e)) [v, v_c]  +  softmax(q_s K_s^T / sqrt(e)) V_s

Registers and patches never see a prefix (they attend to the frozen class token), so their keys, values and final
mean are cached, and a sample costs one token per block instead of a sequence. In the first prompted block all
samples still have the same class token: its query and its attention are cached instead of that block's keys and
values. This is a model of its own, trained as such, not an approximation of two-way prompts.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pfedbayespt.model.backbone import Backbone
from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion._attention import (
    BlockPrefix,
    attend_prefix,
    finish_block,
    run_block_on_class_tokens,
)
from pfedbayespt.model.insertion._layout import prefix_roles
from pfedbayespt.model.insertion.base import Insertion
from pfedbayespt.model.insertion.context import Context


@dataclass(frozen=True, eq=False)
class PrefixContext(Context):
    """The frozen pass as one class token sees it.

    Attributes:
        class_token: its state before the first prompted block.
        query: its queries in that block.
        mixed: its attention output there, before the projection.
        keys: of registers and patches, for each further prompted block.
        values: likewise.
        fixed: what of the read-out no prefix changes: final patch mean, middle class token and means over cells.
    """

    class_token: Float[Tensor, "B 1 d"]
    query: Float[Tensor, "B H 1 e"]
    mixed: Float[Tensor, "B 1 d"]
    keys: tuple[Float[Tensor, "B H n e"], ...]
    values: tuple[Float[Tensor, "B H n e"], ...]
    fixed: Float[Tensor, "B E"]


class PrefixInsertion(Insertion):
    """`prefix(L)`: 2 P L tokens, for each block P keys and P values."""

    context_type = PrefixContext

    def __init__(
        self, config: InsertionConfig, backbone: Backbone, mid_block: int | None, grid_size: int
    ) -> None:
        roles = prefix_roles(config.num_blocks, config.prompt_length)
        super().__init__(config, backbone, mid_block, grid_size, roles)

    @torch.no_grad()
    def encode(self, images: Float[Tensor, "B 3 H W"]) -> PrefixContext:
        """Run the whole trunk once."""
        depth = self.backbone.depth
        states, runs = self._run_frozen(images, {self._first, self.mid_block, depth}, first_kept=self._first)
        final = self.backbone.final_norm(states[depth])
        return PrefixContext(
            features=self._pool(states[self._first]),
            class_token=_own(states[self._first][:, :1]),
            query=_own(runs[0].queries[:, :, :1]),
            mixed=_own(runs[0].mixed[:, :1]),
            keys=tuple(_own(run.keys[:, :, 1:]) for run in runs[1:]),
            values=tuple(_own(run.values[:, :, 1:]) for run in runs[1:]),
            fixed=torch.cat([self._patch_mean(final), self._survey(states[self.mid_block])], dim=1),
        )

    def decode(
        self,
        context: Context,
        prompts: Float[Tensor, "B S D"],
        mean_prompt: Float[Tensor, "B D"],  # noqa: ARG002 - the samples alone act here
    ) -> Float[Tensor, "B S R"]:
        """Run one class token per sample against the cached keys and values."""
        held = self._restore(context, PrefixContext)
        first, *rest = split_prefixes(prompts, self.config)
        blocks = self.backbone.blocks[self._first :]
        states = finish_block(blocks[0], held.class_token, held.mixed + attend_prefix(held.query, first))
        for block, keys, values, prefix in zip(blocks[1:], held.keys, held.values, rest, strict=True):
            states = run_block_on_class_tokens(block, states, keys, values, prefix)
        fixed = held.fixed.unsqueeze(1).expand(-1, prompts.shape[1], -1)
        return torch.cat([self.backbone.final_norm(states), fixed], dim=2)

    @torch.no_grad()
    def unprompted(self, context: Context) -> Float[Tensor, "B R"]:
        """Decode a prefix of zero values, which adds nothing to the attention's output."""
        silent = context.features.new_zeros(len(context), 1, self.num_tokens * self.token_width)
        silent = silent.to(self.backbone.vit.cls_token.dtype)
        return self.decode(context, silent, silent[:, 0])[:, 0]


def split_prefixes(prompts: Float[Tensor, "B S D"], config: InsertionConfig) -> list[BlockPrefix]:
    """Return the prefix of each prompted block."""
    shape = (*prompts.shape[:2], config.num_blocks, 2, config.prompt_length, -1)
    return [BlockPrefix(*block.unbind(2)) for block in prompts.reshape(shape).unbind(2)]


def _own(tensor: Tensor) -> Tensor:
    """Copy, so that a context does not keep alive the larger tensor it was cut from."""
    return tensor.clone(memory_format=torch.contiguous_format)
