"""`prefix` and `hybrid`, cached and shared, equal one masked pass that spells out who sees whom."""

import pytest
import torch

from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion import build_insertion

P, S = 2, 3


def masked_pass(backbone, images, num_blocks, prefixes, steering=None):
    """Run [class token, registers, patches | steering tokens | S class tokens] through the last blocks.

    A sampled class token is seen by itself alone, and sees all but the first class token and the other samples.

    Args:
        prefixes: [B, S, L, 2, P, d].
        steering: None, or a function from a block's number and the current steering states to its steering states.
    Returns:
        The sampled class tokens [B, S, d] and the patch mean [B, d] after the final norm.
    """
    first = backbone.depth - num_blocks
    base = backbone.blocks[:first](backbone.embed(images))
    samples = base[:, :1].expand(-1, prefixes.shape[1], -1)
    num_base, steered = base.shape[1], base[:, :0]
    for index, block in enumerate(backbone.blocks[first:]):
        if steering is not None:
            steered = steering(index, steered)
        num_shared = num_base + steered.shape[1]
        sequence = torch.cat([base, steered, samples], dim=1)
        sequence = masked_block(block, sequence, num_shared, prefixes[:, :, index])
        base, steered, samples = sequence.split([num_base, num_shared - num_base, prefixes.shape[1]], dim=1)
    final = backbone.final_norm(base)
    return backbone.final_norm(samples), final[:, backbone.num_prefix_tokens :].mean(1)


def masked_block(block, sequence, num_shared, prefix):
    num_tokens = sequence.shape[1]
    visible = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    visible[:, :num_shared] = True
    visible[num_shared:, 0] = False
    visible[num_shared:, num_shared:] = torch.eye(num_tokens - num_shared, dtype=torch.bool)

    attention = block.attn
    heads = attention.qkv(block.norm1(sequence)).chunk(3, dim=-1)
    outputs = []
    for head in range(attention.num_heads):
        part = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
        q, k, v = (x[..., part] for x in heads)
        q, k = attention.q_norm(q), attention.k_norm(k)
        scores = (q @ k.mT * attention.scale).masked_fill(~visible, -torch.inf)
        output = scores.softmax(-1) @ v
        for s in range(prefix.shape[1]):
            keys, values = prefix[:, s, 0, :, part], prefix[:, s, 1, :, part]
            query = q[:, num_shared + s, None]
            extra = (query @ keys.mT * attention.scale).softmax(-1) @ values
            output = torch.cat(
                [
                    output[:, : num_shared + s],
                    output[:, num_shared + s, None] + extra,
                    output[:, num_shared + s + 1 :],
                ],
                dim=1,
            )
        outputs.append(output)
    sequence = sequence + block.ls1(attention.proj(attention.norm(torch.cat(outputs, dim=-1))))
    return sequence + block.ls2(block.mlp(block.norm2(sequence)))


def draw_prompts(insertion, num_images, dtype):
    """Draw prompts large enough to matter, and mean prompts that are not their mean."""
    generator = torch.Generator().manual_seed(11)
    width = insertion.num_tokens * insertion.token_width
    prompts = torch.randn(num_images, S, width, generator=generator, dtype=dtype)
    mean = torch.randn(num_images, width, generator=generator, dtype=dtype)
    return prompts.requires_grad_(), mean.requires_grad_()


def assert_same_with_gradients(ours, theirs, inputs, tolerance):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5), dtype=ours.dtype)
    for mine, reference in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((theirs * weights).sum(), inputs),
        strict=True,
    ):
        assert reference.abs().max() > 1e-3
        torch.testing.assert_close(mine, reference, rtol=10 * tolerance, atol=10 * tolerance)


def prefix_by_masked_pass(backbone, images, prompts, num_blocks):
    d = backbone.embed_dim
    return masked_pass(backbone, images, num_blocks, prompts.view(len(images), S, num_blocks, 2, P, d))


def hybrid_by_masked_pass(backbone, images, prompts, mean, config):
    d, num_blocks = backbone.embed_dim, config.num_blocks
    num_steering = P * num_blocks if config.deep else P
    tokens = mean[:, : num_steering * d].view(len(images), num_steering, d)

    def steering(index, current):
        if config.deep:
            return tokens[:, index * P : (index + 1) * P]
        return tokens if index == 0 else current

    prefixes = prompts[..., num_steering * d :].view(len(images), S, num_blocks, 2, P, d)
    return masked_pass(backbone, images, num_blocks, prefixes, steering)


@pytest.mark.parametrize("num_blocks", [1, 2, 4])
def test_a_cached_prefix_equals_one_masked_pass(any_backbone64, images, num_blocks):
    images = images.double()
    insertion = build_insertion(InsertionConfig("prefix", num_blocks, P), any_backbone64)
    prompts, mean = draw_prompts(insertion, len(images), torch.float64)
    ours = insertion.decode(insertion.encode(images), prompts, mean)
    class_token, patch_mean = prefix_by_masked_pass(any_backbone64, images, prompts, num_blocks)
    d = any_backbone64.embed_dim
    torch.testing.assert_close(ours[:, :, d : 2 * d], patch_mean[:, None].expand(-1, S, -1))
    assert_same_with_gradients(ours[:, :, :d], class_token, [prompts], 1e-11)


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("num_blocks", [1, 2, 4])
def test_a_hybrid_equals_one_masked_pass(any_backbone64, images, num_blocks, deep):
    images = images.double()
    config = InsertionConfig("hybrid", num_blocks, P, deep)
    insertion = build_insertion(config, any_backbone64)
    prompts, mean = draw_prompts(insertion, len(images), torch.float64)
    ours = insertion.decode(insertion.encode(images), prompts, mean)
    class_token, patch_mean = hybrid_by_masked_pass(any_backbone64, images, prompts, mean, config)
    theirs = torch.cat([class_token, patch_mean[:, None].expand(-1, S, -1)], dim=-1)
    assert_same_with_gradients(ours[:, :, : 2 * any_backbone64.embed_dim], theirs, [prompts, mean], 1e-11)


@pytest.mark.parametrize("kind", ["prefix", "hybrid"])
def test_float32_keeps_to_the_masked_pass_within_a_hundred_thousandth(backbone, images, kind):
    config = InsertionConfig(kind, 3, P)
    insertion = build_insertion(config, backbone)
    prompts, mean = draw_prompts(insertion, len(images), torch.float32)
    ours = insertion.decode(insertion.encode(images), prompts, mean)[:, :, : backbone.embed_dim]
    if kind == "prefix":
        theirs, _ = prefix_by_masked_pass(backbone, images, prompts, 3)
    else:
        theirs, _ = hybrid_by_masked_pass(backbone, images, prompts, mean, config)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5
