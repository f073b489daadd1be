"""The inside of a frozen block, with the doors that prompts come in by.

For a block with queries q, keys k and values v per head (width e), x its input and N its tokens:

    mixed(x) = softmax(q k^T / sqrt(e)) v
    block(x) = y + mlp(y),   y = x + projection(mixed(x))        (norms and layer scales left out)

- visitors (two-way prompts): further tokens that lend keys and values and are gone after the block;
- a class token of its own per sample: it looks at shared keys k, values v and at its own key and value;
- a prefix: P free keys and values per sample, with a softmax of their own, added to `mixed`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


class Heads(NamedTuple):
    """Queries, keys and values of some tokens, split by head."""

    queries: Float[Tensor, "B H N e"]
    keys: Float[Tensor, "B H N e"]
    values: Float[Tensor, "B H N e"]


class BlockRun(NamedTuple):
    """A block's output, and what it computed on the way.

    Attributes:
        tokens: the states after the block, without visitors.
        queries: of `tokens`.
        keys: of `tokens` and visitors, in this order.
        values: likewise.
        mixed: attention output of `tokens` before its projection.
    """

    tokens: Float[Tensor, "B N d"]
    queries: Float[Tensor, "B H N e"]
    keys: Float[Tensor, "B H M e"]
    values: Float[Tensor, "B H M e"]
    mixed: Float[Tensor, "B N d"]


class BlockPrefix(NamedTuple):
    """Keys and values of one block, for each sample."""

    keys: Float[Tensor, "B S P d"]
    values: Float[Tensor, "B S P d"]


def run_block(
    block: Block, tokens: Float[Tensor, "b N d"], visitors: Float[Tensor, "B P d"] | None = None
) -> BlockRun:
    """Run `block` on `tokens`, which also look at `visitors`.

    With S rows of visitors per row of tokens (B = b S) the result has B rows; what they share is projected once.
    """
    queries, keys, values = _project(block.attn, block.norm1(tokens))
    if visitors is not None:
        num_samples = len(visitors) // len(tokens)
        theirs = _project(block.attn, block.norm1(visitors))
        keys, values = _append(keys, theirs.keys), _append(values, theirs.values)
        tokens, queries = repeat_rows(tokens, num_samples), repeat_rows(queries, num_samples)
    mixed = _join_heads(scaled_dot_product_attention(queries, keys, values))
    return BlockRun(finish_block(block, tokens, mixed), queries, keys, values, mixed)


def run_block_on_class_tokens(
    block: Block,
    states: Float[Tensor, "B q d"],
    keys: Float[Tensor, "B H n e"],
    values: Float[Tensor, "B H n e"],
    prefix: BlockPrefix,
    *,
    instead_of_first: bool = False,
) -> Float[Tensor, "B S d"]:
    """Run `block` on one class token per sample, or one for all (q = 1), looking at the same `keys` and `values`.

    The samples are the queries of one attention call, and none sees another. With `instead_of_first` the first of
    the keys and values is another class token's, which none sees either: to leave it there saves copying the rest.
    """
    own = _project(block.attn, block.norm1(states))
    attended = _attend_with_own(own, keys, values, instead_of_first=instead_of_first)
    mixed = _join_heads(attended) + attend_prefix(own.queries, prefix)
    return finish_block(block, states, mixed)


def attend_prefix(queries: Float[Tensor, "B H q e"], prefix: BlockPrefix) -> Float[Tensor, "B S d"]:
    """Return each sample's attention over its own prefix; one query (q = 1) serves all samples, or each its own.

    Few numbers, so plain products: an attention kernel would be called with a single query per sample.
    """
    num_heads, width = queries.shape[1], queries.shape[3]
    keys, values = (part.view(*part.shape[:3], num_heads, width) for part in prefix)
    scores = (queries.transpose(1, 2).unsqueeze(2) * keys).sum(-1) * width**-0.5
    mixed: Tensor = (scores.softmax(dim=2).unsqueeze(-1) * values).sum(2)
    return mixed.flatten(2)


def finish_block(
    block: Block, tokens: Float[Tensor, "B q d"], mixed: Float[Tensor, "B N d"]
) -> Float[Tensor, "B N d"]:
    """Return the states after `block`, given its input and its attention output before the projection."""
    attended = tokens + block.ls1(block.attn.proj(block.attn.norm(mixed)))
    output: Tensor = attended + block.ls2(block.mlp(block.norm2(attended)))
    return output


def repeat_rows(rows: Float[Tensor, "b ..."], num_samples: int) -> Float[Tensor, "B ..."]:
    """Repeat each row; no copy for one sample."""
    return rows.unsqueeze(1).expand(-1, num_samples, *rows.shape[1:]).flatten(0, 1)


def _project(attention: Attention, normed: Float[Tensor, "B N d"]) -> Heads:
    parts = attention.qkv(normed).view(*normed.shape[:2], 3, attention.num_heads, attention.head_dim)
    queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind(0)
    return Heads(attention.q_norm(queries), attention.k_norm(keys), values)


def _attend_with_own(
    own: Heads,
    keys: Float[Tensor, "B H n e"],
    values: Float[Tensor, "B H n e"],
    *,
    instead_of_first: bool,
) -> Float[Tensor, "B H S e"]:
    """Attend over the shared keys and each query's own one, with scores s and o, without joining the two.

    softmax([s, o]) = [(1 - w) softmax(s), w],   w = sigmoid(o - logsumexp(s))
    """
    queries = own.queries * own.queries.shape[-1] ** -0.5
    scores = queries @ keys.transpose(-2, -1)
    if instead_of_first:
        hidden = torch.full_like(scores[..., :1], -torch.inf)
        scores = torch.cat([hidden, scores[..., 1:]], dim=-1)
    own_score = (queries * own.keys).sum(-1, keepdim=True)
    weight = torch.sigmoid(own_score - scores.logsumexp(-1, keepdim=True))
    shared: Tensor = scores.softmax(-1) @ values
    return shared + weight * (own.values - shared)


def _append(rows: Float[Tensor, "b H N e"], more: Float[Tensor, "B H P e"]) -> Float[Tensor, "B H M e"]:
    """Append to each row, along the tokens, each of its S rows in `more`, with a single copy."""
    more = more.view(len(rows), -1, *more.shape[1:])
    return torch.cat([rows.unsqueeze(1).expand(-1, more.shape[1], -1, -1, -1), more], dim=3).flatten(0, 1)


def _join_heads(mixed: Float[Tensor, "B H N e"]) -> Float[Tensor, "B N d"]:
    return mixed.transpose(1, 2).flatten(2)
