"""What the insertions have in common: the interface, the frozen pass, the features and the read-out.

    context   = encode(images)                      once per image, frozen, no gradient
    readout_s = decode(context, prompt_s, mean)     once per posterior sample

    features  f(x) in R^2d:  [class token, patch mean] before the first prompted block
    read-out  in R^(3+g*g)d: [class token, patch mean] after the final norm, then
                             [class token, means over g x g cells of patches] of the frozen trunk
                             after `mid_block` blocks

The cells tell the head what is where; the middle of the trunk still knows it, and a mean over the image does not
(docs/adr/0003-read-what-is-where.md). The mid-block part is frozen, even where prompts act before it: the read-out
then holds the linear probe's input, and it is computed once per image. `midway` does the opposite: its mid-block
part is the prompted one, and the rest is frozen.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from pfedbayespt.model.backbone import Backbone
from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion._attention import BlockRun, run_block
from pfedbayespt.model.insertion._layout import Role, draw_prompt, prompt_scale
from pfedbayespt.model.insertion.context import Context

_AnyContext = TypeVar("_AnyContext", bound=Context)


class InsertionError(ValueError):
    """The configuration does not fit the backbone, or a context is of another insertion."""


class Insertion(nn.Module, ABC):
    """Where prompts act in the frozen trunk. It has no parameters but the trunk's.

    Attributes:
        num_tokens: tokens of a prompt.
        token_width: d; a prompt has D = num_tokens * d numbers.
        feature_dim: F = 2 d, width of the generator's input.
        readout_dim: (3 + g g) d, width of the head's input.
        mid_block: number of blocks before the states that the read-out takes from the middle of the trunk.
        grid_size: g, at most as many cells a side as there are patches.
        context_type: what `encode` returns.

    Raises:
        InsertionError: more blocks are prompted than there are, or the middle block is not one of them.
    """

    context_type: ClassVar[type[Context]]

    def __init__(
        self,
        config: InsertionConfig,
        backbone: Backbone,
        mid_block: int | None,
        grid_size: int,
        roles: Sequence[Role],
    ) -> None:
        super().__init__()
        _check(config, backbone, mid_block)
        self.backbone = backbone
        self.config = config
        self.num_tokens = len(roles)
        self.token_width = backbone.embed_dim
        self.feature_dim = 2 * backbone.embed_dim
        self.grid_size = min(grid_size, *backbone.patch_grid)
        self.readout_dim = (3 + self.grid_size**2) * backbone.embed_dim
        self._roles = tuple(roles)
        self._first = backbone.depth - config.num_blocks
        self.mid_block = round(2 * backbone.depth / 3) if mid_block is None else mid_block

    def prompt_scale(self) -> Float[Tensor, " D"]:
        """Return the root mean square of each coordinate on the prompt's own scale."""
        return prompt_scale(self._roles, self.backbone).to(self.backbone.vit.cls_token)

    def initial_prompt(self, generator: torch.Generator) -> Float[Tensor, " D"]:
        """Draw the prompt m that training starts from; the same numbers for every device and type."""
        return draw_prompt(self._roles, self.backbone, generator).to(self.backbone.vit.cls_token)

    @abstractmethod
    def encode(self, images: Float[Tensor, "B 3 H W"]) -> Context:
        """Return what all samples of each image share: frozen, without gradient."""

    @abstractmethod
    def decode(
        self, context: Context, prompts: Float[Tensor, "B S D"], mean_prompt: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B S R"]:
        """Return the read-out of each sample, differentiable in the prompts.

        Raises:
            InsertionError: `context` was encoded by another kind of insertion.
        """

    @abstractmethod
    def unprompted(self, context: Context) -> Float[Tensor, "B R"]:
        """Return the read-out of the trunk without any prompt, which is the linear probe's input.

        Raises:
            InsertionError: `context` was encoded by another kind of insertion.
        """

    def _run_frozen(
        self, images: Float[Tensor, "B 3 H W"], marks: set[int], first_kept: int | None = None
    ) -> tuple[dict[int, Tensor], list[BlockRun]]:
        """Run the trunk up to the last mark.

        Returns:
            The states after as many blocks as each mark says, and the runs of the blocks from `first_kept` on.
        """
        tokens = self.backbone.embed(images)
        states, kept = {0: tokens}, []
        for index in range(max(marks)):
            run = run_block(self.backbone.blocks[index], tokens)
            tokens = run.tokens
            if index + 1 in marks:
                states[index + 1] = tokens
            if first_kept is not None and index >= first_kept:
                kept.append(run)
        return states, kept

    def _restore(self, context: Context, kind: type[_AnyContext]) -> _AnyContext:
        """Return `context` in the trunk's type: a cache may keep it in a smaller one."""
        if not isinstance(context, kind):
            raise InsertionError(f"{type(self).__name__} cannot decode a {type(context).__name__}")
        return context.to(dtype=self.backbone.vit.cls_token.dtype)

    def _pool(self, tokens: Float[Tensor, "B N d"]) -> Float[Tensor, "B F"]:
        """Return class token and patch mean; registers are neither."""
        return torch.cat([tokens[:, 0], self._patch_mean(tokens)], dim=1)

    def _survey(self, tokens: Float[Tensor, "B N d"]) -> Float[Tensor, "B M"]:
        """Return the class token, then the mean patch of each cell, row by row."""
        patches = tokens[:, self.backbone.num_prefix_tokens :]
        rows, columns = self.backbone.patch_grid
        image = patches.mT.reshape(len(tokens), -1, rows, columns)
        cells = adaptive_avg_pool2d(image, self.grid_size)
        return torch.cat([tokens[:, 0], cells.flatten(2).mT.flatten(1)], dim=1)

    def _patch_mean(self, tokens: Float[Tensor, "B N d"]) -> Float[Tensor, "B d"]:
        return tokens[:, self.backbone.num_prefix_tokens :].mean(dim=1)


def _check(config: InsertionConfig, backbone: Backbone, mid_block: int | None) -> None:
    if config.num_blocks > backbone.depth:
        raise InsertionError(f"num_blocks is {config.num_blocks}; the backbone has {backbone.depth} blocks")
    if mid_block is not None and not 1 <= mid_block <= backbone.depth:
        raise InsertionError(f"mid_block is {mid_block}; allowed: 1 to {backbone.depth}")
