"""The read-out: standardisation, the shared head, the personal residual and the class prior."""

import math

import pytest
import torch

from pfedbayespt.model.readout import Moments, ReadOut, cross_entropy, log_class_prior


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments_of(features):
    moments = Moments(features.shape[-1])
    moments.mean.copy_(features.double().mean(0))
    moments.second_moment.copy_(features.double().square().mean(0))
    return moments


def test_standardised_features_have_mean_zero_and_unit_variance():
    features = 1000 + normal(500, 4) * torch.tensor([1.0, 0.5, 2.0, 4.0])
    standardised = moments_of(features)(features)
    assert standardised.dtype == torch.float32
    torch.testing.assert_close(standardised.mean(0), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(standardised.std(0), torch.ones(4), rtol=0.01, atol=0)


def test_fresh_moments_leave_features_alone():
    features = normal(5, 4)
    torch.testing.assert_close(Moments(4)(features), features)


def test_a_feature_that_never_varies_is_not_blown_up():
    features = torch.cat([normal(500, 3), torch.full((500, 1), 7.0)], dim=1)
    shifted = features.clone()
    shifted[:, 3] += 0.01
    assert moments_of(features)(shifted)[:, 3].abs().max() < 2.0


def test_an_untrained_head_says_every_class_alike():
    assert torch.equal(ReadOut(4, 3, personal_residual=True)(normal(2, 5, 4)), torch.zeros(2, 5, 3))


def test_the_residual_adds_to_the_shared_logits():
    readout = ReadOut(4, 3, personal_residual=True)
    features = normal(2, 1, 4)
    with torch.no_grad():
        readout.head.bias.fill_(1.0)
        readout.residual.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(readout(features)[0, 0], torch.tensor([2.0, 3.0, 4.0]))
    assert torch.equal(readout.residual_logits(features), readout(features))


def test_training_the_residual_sends_nothing_to_what_is_shared():
    readout = ReadOut(4, 3, personal_residual=True)
    features = normal(2, 1, 4).requires_grad_()
    readout.residual_logits(features)[..., 0].sum().backward()
    assert features.grad is None
    assert readout.head.weight.grad is None
    assert readout.residual.weight.grad.abs().sum() > 0


def test_without_a_residual_there_is_nothing_personal_to_train():
    readout = ReadOut(4, 3, personal_residual=False)
    assert readout.residual is None
    assert readout.residual_logits(normal(2, 1, 4)) is None


def test_the_class_prior_counts_labels_and_leaves_absent_classes_possible():
    prior = log_class_prior(torch.tensor([0, 0, 0, 2]), 3)
    assert prior.exp().sum().item() == pytest.approx(1.0)
    torch.testing.assert_close(prior.exp(), torch.tensor([3.0, 0.1, 1.0]) / 4.1)


def test_cross_entropy_is_the_negative_log_probability_of_the_label():
    logits = normal(2, 3, 4)
    labels = torch.tensor([1, 3])
    known = -logits.log_softmax(-1)[torch.arange(2), :, labels]
    torch.testing.assert_close(cross_entropy(logits, labels), known)


def test_a_shifted_head_of_zeros_already_predicts_the_prior():
    labels = torch.tensor([0, 0, 0, 1])
    prior = log_class_prior(labels, 2)
    nll = cross_entropy(torch.zeros(4, 1, 2), labels, prior)[:, 0]
    torch.testing.assert_close(nll, torch.tensor([math.log(4 / 3)] * 3 + [math.log(4)]))
