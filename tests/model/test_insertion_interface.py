"""What holds for every insertion."""

import pytest
import torch

from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion import InsertionError, build_insertion

CONFIGS = [
    InsertionConfig("twoway", 6, 2),
    InsertionConfig("twoway", 2, 2, deep=False),
    InsertionConfig("prefix", 3, 2),
    InsertionConfig("prefix", 6, 2),
    InsertionConfig("hybrid", 3, 2),
    InsertionConfig("hybrid", 2, 2, deep=False),
    InsertionConfig("midway", 3, 2),
    InsertionConfig("midway", 2, 2, deep=False),
]
S = 4


@pytest.fixture(params=CONFIGS, ids=lambda c: f"{c.kind}({c.num_blocks}){'' if c.deep else ' shallow'}")
def config(request):
    return request.param


@pytest.fixture
def insertion(config, backbone64):
    return build_insertion(config, backbone64)


@pytest.fixture
def prompts(insertion, images):
    shape = (len(images), S, insertion.num_tokens * insertion.token_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_widths_are_what_they_say(insertion, images, prompts, backbone64):
    context = insertion.encode(images.double())
    readout = insertion.decode(context, prompts, prompts.mean(1))
    assert insertion.token_width == backbone64.embed_dim
    assert context.features.shape == (3, insertion.feature_dim)
    assert readout.shape == (3, S, insertion.readout_dim)


def test_no_sample_sees_another(insertion, images, prompts):
    context, mean = insertion.encode(images.double()), prompts.mean(1)
    together = insertion.decode(context, prompts, mean)
    alone = torch.cat([insertion.decode(context, prompts[:, s : s + 1], mean) for s in range(S)], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-11, atol=1e-11)


def test_no_image_sees_another(insertion, images, prompts):
    images, mean = images.double(), prompts.mean(1)
    together = insertion.decode(insertion.encode(images), prompts, mean)
    alone = [
        insertion.decode(insertion.encode(images[i : i + 1]), prompts[i : i + 1], mean[i : i + 1])
        for i in range(len(images))
    ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-11, atol=1e-11)


def test_gradients_reach_the_prompts_and_never_the_trunk(insertion, images, prompts):
    prompts.requires_grad_()
    context = insertion.encode(images.double())
    insertion.decode(context, prompts, prompts.mean(1)).square().sum().backward()
    assert prompts.grad.norm(dim=-1).min() > 0
    assert not any(tensor.requires_grad for tensor in context.tensors())
    assert all(parameter.grad is None for parameter in insertion.parameters())
    assert not any(parameter.requires_grad for parameter in insertion.parameters())


def test_the_frozen_pass_builds_no_graph_even_where_images_ask_for_one(insertion, images):
    images = images.double().requires_grad_()
    frozen = [*insertion.encode(images).tensors(), insertion.unprompted(insertion.encode(images))]
    assert not any(tensor.requires_grad for tensor in frozen)


def test_one_prompt_may_be_shared_by_all_images_and_samples_without_a_copy(insertion, images, prompts):
    context = insertion.encode(images.double())
    shared = prompts[0, 0].expand(3, S, -1)
    expected = insertion.decode(context, shared.contiguous(), shared[:, 0].contiguous())
    assert torch.equal(insertion.decode(context, shared, shared[:, 0]), expected)


def test_mixed_precision_stays_close(config, backbone, images, prompts):
    insertion, small = build_insertion(config, backbone), 0.1 * prompts.float()
    expected = insertion.decode(insertion.encode(images), small, small.mean(1))
    with torch.autocast("cpu", torch.bfloat16):
        readout = insertion.decode(insertion.encode(images), small, small.mean(1))
    assert (
        readout - expected
    ).norm() / expected.norm() < 0.05  # bfloat16 keeps three digits, over six blocks


def test_without_a_prompt_the_read_out_is_the_trunks_own(insertion, images, config):
    images, backbone = images.double(), insertion.backbone
    context = insertion.encode(images)
    features, readout = context.features, insertion.unprompted(context)
    states = [backbone.embed(images)]
    for block in backbone.blocks:
        states.append(block(states[-1]))

    def pool(tokens):
        return torch.cat([tokens[:, 0], tokens[:, backbone.num_prefix_tokens :].mean(1)], dim=-1)

    # Two thirds of six blocks are four, and nine patches are a cell each.
    first = (4 if config.kind == "midway" else 6) - config.num_blocks
    torch.testing.assert_close(features, pool(states[first]))
    middle = states[4][:, [0, *range(backbone.num_prefix_tokens, states[4].shape[1])]].flatten(1)
    torch.testing.assert_close(readout, torch.cat([pool(backbone(images)), middle], dim=-1))


@pytest.mark.parametrize(("grid_size", "cells"), [(1, 1), (2, 4), (3, 9), (4, 9)])
def test_the_read_out_has_the_mean_patch_of_every_cell_of_the_middle_block(
    backbone64, images, grid_size, cells
):
    insertion = build_insertion(InsertionConfig("prefix", 2, 2), backbone64, 4, grid_size)
    images = images.double()
    readout = insertion.unprompted(insertion.encode(images))
    assert insertion.readout_dim == readout.shape[1] == (3 + cells) * backbone64.embed_dim
    middle = backbone64.blocks[:4](backbone64.embed(images))
    patches = middle[:, backbone64.num_prefix_tokens :].unflatten(1, (3, 3))
    found = readout[:, 3 * backbone64.embed_dim :].unflatten(1, (cells, -1))
    if cells == 1:
        torch.testing.assert_close(found[:, 0], patches.mean((1, 2)))
    elif cells == 9:
        torch.testing.assert_close(found, patches.flatten(1, 2))
    else:  # cells of an odd grid share its middle row and column
        torch.testing.assert_close(found[:, 1], patches[:, :2, 1:].mean((1, 2)))
        torch.testing.assert_close(found[:, 2], patches[:, 1:, :2].mean((1, 2)))


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.kind != "midway"], indirect=True, ids=str)
@pytest.mark.parametrize("mid_block", [1, 3, 6])
def test_the_middle_block_may_lie_before_or_among_the_prompted_ones(
    config, backbone64, images, prompts, mid_block
):
    insertion = build_insertion(config, backbone64, mid_block)
    context = insertion.encode(images.double())
    frozen = insertion.unprompted(context)
    readout = insertion.decode(context, prompts, prompts.mean(1))
    d = insertion.token_width
    expected = frozen[:, None, 2 * d :].expand(-1, S, -1)
    torch.testing.assert_close(readout[:, :, 2 * d :], expected, rtol=1e-11, atol=1e-11)
    tokens = backbone64.blocks[:mid_block](backbone64.embed(images.double()))
    torch.testing.assert_close(readout[:, 0, 2 * d : 3 * d], tokens[:, 0])


def test_initial_prompts_live_on_the_prompts_own_scale(insertion):
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([insertion.initial_prompt(generator) for _ in range(2000)])
    rms = drawn.square().mean(0).sqrt()
    # 2,000 draws: the relative standard error of an rms is at most 1/sqrt(2 * 2000) = 1.6 %; five of them.
    torch.testing.assert_close(rms, insertion.prompt_scale(), rtol=0.08, atol=0)


def test_the_scale_of_each_token_is_that_of_its_role(backbone, backbone64):
    vpt = (6 / (3 * 16 * 16 + 64)) ** 0.5 / 3**0.5
    for kind, expected in [
        ("twoway", [vpt] * 4),
        ("prefix", [1.0, 1.0, 0.09, 0.09] * 2),
        ("hybrid", [vpt] * 4 + [1.0, 1.0, 0.09, 0.09] * 2),
    ]:
        insertion = build_insertion(InsertionConfig(kind, 2, 2), backbone64)
        scale = insertion.prompt_scale().view(insertion.num_tokens, -1)
        torch.testing.assert_close(scale, torch.tensor(expected).double()[:, None].expand(-1, 64))


def test_the_initial_two_way_tokens_are_uniform_within_the_bound_of_prompt_tuning(backbone64):
    insertion = build_insertion(InsertionConfig("twoway", 6, 50), backbone64)
    prompt = insertion.initial_prompt(torch.Generator().manual_seed(0))
    bound = (6 / (3 * 16 * 16 + 64)) ** 0.5
    assert 0.99 * bound < prompt.abs().max() <= bound


def test_the_initial_prompt_is_a_function_of_the_generator_alone(config, backbone, backbone64):
    single, double = (
        build_insertion(config, trunk).initial_prompt(torch.Generator().manual_seed(5))
        for trunk in (backbone, backbone64)
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=0)


def test_float32_stays_close_to_float64(config, backbone, backbone64, images, prompts):
    small = 0.1 * prompts
    exact = build_insertion(config, backbone64)
    rough = build_insertion(config, backbone)
    expected = exact.decode(exact.encode(images.double()), small, small.mean(1))
    readout = rough.decode(rough.encode(images), small.float(), small.mean(1).float())
    assert readout.dtype == torch.float32
    assert (readout - expected).norm() / expected.norm() < 1e-5


def test_more_prompted_blocks_than_blocks_are_refused(backbone):
    with pytest.raises(InsertionError, match="num_blocks is 7; the backbone has 6 blocks"):
        build_insertion(InsertionConfig("prefix", 7, 2), backbone)


@pytest.mark.parametrize("mid_block", [0, 7])
def test_a_middle_block_that_does_not_exist_is_refused(backbone, mid_block):
    with pytest.raises(InsertionError, match=rf"mid_block is {mid_block}; allowed: 1 to 6"):
        build_insertion(InsertionConfig("prefix", 3, 2), backbone, mid_block)


def test_a_context_of_another_insertion_is_refused(backbone, images):
    prefix = build_insertion(InsertionConfig("prefix", 3, 2), backbone)
    twoway = build_insertion(InsertionConfig("twoway", 3, 2), backbone)
    prompts = torch.zeros(3, 1, prefix.num_tokens * prefix.token_width)
    with pytest.raises(InsertionError, match="cannot decode a BoundaryContext"):
        prefix.decode(twoway.encode(images), prompts, prompts[:, 0])
