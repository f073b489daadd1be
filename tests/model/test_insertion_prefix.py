"""A prefix is one-way: it moves the class token of its own sample and nothing else."""

import pytest
import torch

from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion import build_insertion

L, P, S = 3, 2, 4


@pytest.fixture
def insertion(backbone64):
    return build_insertion(InsertionConfig("prefix", L, P), backbone64)


@pytest.fixture
def context(insertion, images):
    return insertion.encode(images.double())


@pytest.fixture
def prompts(insertion, images):
    shape = (len(images), S, insertion.num_tokens * insertion.token_width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def decode(insertion, context, prompts):
    return insertion.decode(context, prompts, prompts[:, 0])


def test_a_prefix_with_zero_values_reproduces_the_frozen_read_out(insertion, context, prompts, images):
    prompts.view(len(images), S, L, 2, P, -1)[:, :, :, 1] = 0.0
    frozen = insertion.unprompted(context)
    expected = frozen[:, None].expand(-1, S, -1)
    torch.testing.assert_close(decode(insertion, context, prompts), expected, rtol=1e-11, atol=1e-11)


def test_the_rest_of_the_read_out_is_frozen_whatever_the_prefix(insertion, context, prompts, images):
    frozen = insertion.unprompted(context)
    d = insertion.token_width
    readout = decode(insertion, context, prompts)
    torch.testing.assert_close(
        readout[:, :, d:], frozen[:, None, d:].expand(-1, S, -1), rtol=1e-11, atol=1e-11
    )
    assert (readout[:, :, :d] - frozen[:, None, :d]).abs().max() > 0.1


def test_every_key_and_value_of_every_block_moves_the_class_token(insertion, context, prompts):
    prompts.requires_grad_()
    readout = decode(insertion, context, prompts)[:, :, : insertion.token_width]
    weights = torch.randn(readout.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (readout * weights).sum().backward()
    per_token = prompts.grad.view(*prompts.shape[:2], insertion.num_tokens, -1).norm(dim=-1)
    assert per_token.min() > 1e-4


def test_values_act_linearly_in_the_last_block_before_the_projection(backbone64, images):
    # With equal keys the softmax is uniform: the prefix adds the mean of its values, whatever the query.
    insertion = build_insertion(InsertionConfig("prefix", 1, P), backbone64)
    context = insertion.encode(images.double())
    values = torch.randn(len(images), 1, P, insertion.token_width, dtype=torch.float64)
    apart = torch.cat([torch.ones_like(values), values], dim=2)
    averaged = torch.cat([torch.ones_like(values), values.mean(2, keepdim=True).expand_as(values)], dim=2)
    torch.testing.assert_close(
        decode(insertion, context, apart.flatten(2)), decode(insertion, context, averaged.flatten(2))
    )


def test_a_prefix_in_more_blocks_keeps_keys_and_values_of_all_but_the_first(backbone, images):
    for num_blocks in (1, 2, 6):
        context = build_insertion(InsertionConfig("prefix", num_blocks, P), backbone).encode(images)
        assert len(context.keys) == len(context.values) == num_blocks - 1
        assert all(keys.shape == (3, 2, 9, 32) for keys in context.keys)  # 9 patches, without the class token
