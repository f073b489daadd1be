"""A hybrid is the two-way model of the mean prompt with sampled prefixes on top."""

import pytest
import torch

from pfedbayespt.model.config import InsertionConfig
from pfedbayespt.model.insertion import build_insertion

L, P, S = 3, 2, 4


@pytest.fixture(params=[True, False], ids=["deep", "shallow"])
def deep(request):
    return request.param


@pytest.fixture
def insertion(backbone64, deep):
    return build_insertion(InsertionConfig("hybrid", L, P, deep), backbone64)


@pytest.fixture
def num_steering(insertion, deep):
    return (P * L if deep else P) * insertion.token_width


@pytest.fixture
def prompts(insertion, images):
    shape = (len(images), S + 1, insertion.num_tokens * insertion.token_width)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return drawn[:, 1:], drawn[:, 0]


def test_a_zero_valued_prefix_leaves_the_two_way_model_of_the_mean(
    insertion, backbone64, images, deep, prompts, num_steering
):
    sampled, mean = prompts
    prefix = sampled[:, :, num_steering:].clone().view(len(images), S, L, 2, P, -1)
    prefix[:, :, :, 1] = 0.0
    sampled = torch.cat([sampled[:, :, :num_steering], prefix.flatten(2)], dim=2)
    twoway = build_insertion(InsertionConfig("twoway", L, P, deep), backbone64)
    context = insertion.encode(images.double())
    expected = twoway.decode(context, mean[:, None, :num_steering], mean[:, :num_steering])
    ours = insertion.decode(context, sampled, mean)
    torch.testing.assert_close(ours, expected.expand(-1, S, -1), rtol=1e-11, atol=1e-11)


def test_samples_steer_nothing_and_the_mean_has_no_prefix(insertion, images, prompts, num_steering):
    sampled, mean = prompts
    context = insertion.encode(images.double())
    expected = insertion.decode(context, sampled, mean)
    sampled, mean = sampled.clone(), mean.clone()
    sampled[:, :, :num_steering] = 7.0
    mean[:, num_steering:] = 7.0
    assert torch.equal(insertion.decode(context, sampled, mean), expected)


def test_gradients_reach_the_steering_of_the_mean_and_the_prefix_of_the_samples(
    insertion, images, prompts, num_steering
):
    sampled, mean = (part.clone().requires_grad_() for part in prompts)
    readout = insertion.decode(insertion.encode(images.double()), sampled, mean)
    weights = torch.randn(readout.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (readout * weights).sum().backward()
    d = insertion.token_width
    assert mean.grad[:, :num_steering].view(len(images), -1, d).norm(dim=-1).min() > 1e-4
    assert sampled.grad[:, :, num_steering:].reshape(len(images), S, -1, d).norm(dim=-1).min() > 1e-4


def test_samples_share_the_steered_patch_mean(insertion, images, prompts):
    context = insertion.encode(images.double())
    readout = insertion.decode(context, *prompts)
    d = insertion.token_width
    assert torch.equal(readout[:, :1, d:].expand(-1, S, -1), readout[:, :, d:])
    frozen = insertion.unprompted(context)
    assert (readout[:, 0, d : 2 * d] - frozen[:, d : 2 * d]).abs().max() > 0.01
    torch.testing.assert_close(readout[:, 0, 2 * d :], frozen[:, 2 * d :])
