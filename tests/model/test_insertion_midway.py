"""`midway` prompts the blocks before the middle: checked against plain prompt tuning with timm's own blocks."""

import pytest
import torch

from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion import InsertionError, build_insertion

P, S, MID = 2, 3, 4


def prompted_middle(backbone, images, prompts, config):
    """The tokens after block MID with one prompt per image, [B, T, d], in the L blocks before."""
    first = MID - config.num_blocks
    tokens = backbone.blocks[:first](backbone.embed(images))
    num_tokens = tokens.shape[1]
    for index, block in enumerate(backbone.blocks[first:MID]):
        if config.deep:
            tokens = torch.cat([tokens[:, :num_tokens], prompts[:, index * P : (index + 1) * P]], dim=1)
        elif index == 0:
            tokens = torch.cat([tokens, prompts], dim=1)
        tokens = block(tokens)
    return tokens[:, :num_tokens]


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("num_blocks", [1, 2, 4])
def test_each_sample_reads_the_middle_of_the_trunk_under_its_prompt(any_backbone64, images, num_blocks, deep):
    images, backbone = images.double(), any_backbone64
    config = InsertionConfig("midway", num_blocks, P, deep)
    insertion = build_insertion(config, backbone, MID, grid_size=1)
    assert insertion.num_tokens == (P * num_blocks if deep else P)
    prompts = torch.randn(len(images), S, insertion.num_tokens, insertion.token_width, dtype=torch.float64)
    prompts.requires_grad_()

    ours = insertion.decode(insertion.encode(images), prompts.flatten(2), prompts.flatten(2)[:, 0])
    d, first_patch = backbone.embed_dim, backbone.num_prefix_tokens
    middles = [prompted_middle(backbone, images, prompts[:, s], config) for s in range(S)]
    theirs = torch.stack(
        [torch.cat([tokens[:, 0], tokens[:, first_patch:].mean(1)], dim=1) for tokens in middles], dim=1
    )

    torch.testing.assert_close(ours[:, :, 2 * d :], theirs, rtol=1e-11, atol=1e-11)
    weights = torch.randn(theirs.shape, dtype=torch.float64)
    (mine,) = torch.autograd.grad((ours[:, :, 2 * d :] * weights).sum(), prompts)
    (reference,) = torch.autograd.grad((theirs * weights).sum(), prompts)
    torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


def test_the_rest_of_the_read_out_is_the_frozen_trunks(backbone64, images):
    images = images.double()
    insertion = build_insertion(InsertionConfig("midway", 2, P), backbone64, MID)
    context, d = insertion.encode(images), backbone64.embed_dim
    prompts = torch.randn(len(images), S, insertion.num_tokens * insertion.token_width, dtype=torch.float64)
    readout = insertion.decode(context, prompts, prompts[:, 0])
    final = backbone64.final_norm(backbone64.blocks(backbone64.embed(images)))
    frozen = torch.cat([final[:, 0], final[:, backbone64.num_prefix_tokens :].mean(1)], dim=1)
    torch.testing.assert_close(readout[:, :, : 2 * d], frozen[:, None].expand(-1, S, -1))
    assert (readout[:, 0, 2 * d :] - readout[:, 1, 2 * d :]).abs().max() > 0.01


def test_without_prompts_it_reads_what_every_insertion_reads(backbone64, images):
    images = images.double()
    readouts = [
        insertion.unprompted(insertion.encode(images))
        for insertion in (
            build_insertion(InsertionConfig(k, 2, P), backbone64, MID) for k in ("midway", "twoway")
        )
    ]
    torch.testing.assert_close(*readouts, rtol=1e-11, atol=1e-11)


def test_no_more_blocks_are_prompted_than_lie_before_the_middle(backbone64):
    with pytest.raises(InsertionError, match="num_blocks is 5; midway ends at block 4, so allowed: 1 to 4"):
        build_insertion(InsertionConfig("midway", 5, P), backbone64, MID)
