"""`twoway` is visual prompt tuning: checked against the plain way to write it, with timm's own blocks."""

import pytest
import torch

from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion import build_insertion

P, S = 2, 3


def prompt_tuning(backbone, images, prompts, config):
    """Visual prompt tuning (Jia et al. 2022) for one prompt per image, [B, T, d], in the last L blocks."""
    first = backbone.depth - config.num_blocks
    tokens = backbone.blocks[:first](backbone.embed(images))
    num_tokens = tokens.shape[1]
    for index, block in enumerate(backbone.blocks[first:]):
        if config.deep:
            fresh = prompts[:, index * P : (index + 1) * P]
            tokens = torch.cat([tokens[:, :num_tokens], fresh], dim=1)
        elif index == 0:
            tokens = torch.cat([tokens, prompts], dim=1)
        tokens = block(tokens)
    final = backbone.final_norm(tokens[:, :num_tokens])
    return torch.cat([final[:, 0], final[:, backbone.num_prefix_tokens :].mean(1)], dim=-1)


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("num_blocks", [1, 2, 4])
def test_each_sample_is_visual_prompt_tuning_with_its_prompt(any_backbone64, images, num_blocks, deep):
    images = images.double()
    config = InsertionConfig("twoway", num_blocks, P, deep)
    insertion = build_insertion(config, any_backbone64)
    assert insertion.num_tokens == (P * num_blocks if deep else P)
    prompts = torch.randn(len(images), S, insertion.num_tokens, insertion.token_width, dtype=torch.float64)
    prompts.requires_grad_()

    ours = insertion.decode(insertion.encode(images), prompts.flatten(2), prompts.flatten(2)[:, 0])
    theirs = torch.stack(
        [prompt_tuning(any_backbone64, images, prompts[:, s], config) for s in range(S)], dim=1
    )

    torch.testing.assert_close(ours[:, :, : theirs.shape[2]], theirs, rtol=1e-11, atol=1e-11)
    weights = torch.randn(theirs.shape, dtype=torch.float64)
    (mine,) = torch.autograd.grad((ours[:, :, : theirs.shape[2]] * weights).sum(), prompts)
    (reference,) = torch.autograd.grad((theirs * weights).sum(), prompts)
    torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-10)


def test_patches_do_see_two_way_prompts(backbone64, images):
    insertion = build_insertion(InsertionConfig("twoway", 3, P), backbone64)
    context = insertion.encode(images.double())
    prompts = torch.randn(len(images), 2, insertion.num_tokens * insertion.token_width, dtype=torch.float64)
    readout = insertion.decode(context, prompts, prompts[:, 0])
    d = backbone64.embed_dim
    assert (readout[:, 0, d : 2 * d] - readout[:, 1, d : 2 * d]).abs().max() > 0.01


def test_the_mean_prompt_plays_no_part(backbone64, images):
    insertion = build_insertion(InsertionConfig("twoway", 2, P), backbone64)
    context = insertion.encode(images.double())
    prompts = torch.randn(len(images), S, insertion.num_tokens * insertion.token_width, dtype=torch.float64)
    one, other = (
        insertion.decode(context, prompts, torch.full_like(prompts[:, 0], fill)) for fill in (0.0, 9.0)
    )
    assert torch.equal(one, other)
