"""Predictions: entropies with known values, noise that replays, and the split of the epistemic part."""

import math

import numpy as np
import pytest
import torch

from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import InsertionConfig, ModelConfig, PosteriorConfig
from pfedbayespt.model.prediction import (
    derive_seed,
    draw_noise,
    entropy,
    epistemic_split,
    nested_noise,
    predict,
    split_epistemic,
)

DIGEST = f"sha256:{'a' * 64}"


def make(backbone, family="semi_implicit"):
    config = ModelConfig(
        num_classes=5,
        insertion=InsertionConfig(num_blocks=2, prompt_length=2),
        posterior=PosteriorConfig(family=family, latent_dim=4, noise_dim=3, hidden_dim=8, prompt_scale=2.0),
    )
    model = build_classifier(config, backbone, torch.Generator().manual_seed(0))
    with torch.no_grad():  # a head that says something, and mixing noise that matters
        model.readout.head.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        if model.posterior.generator is not None:
            model.posterior.generator.output.weight.mul_(30.0)
    return model


def run(model, images, num_samples=8, **options):
    noise = draw_noise([1, 2, 3], num_samples, model.posterior.noise_width)
    return predict(model, model.encode(images), noise, **options)


def test_total_is_aleatoric_plus_epistemic_and_probabilities_are_averaged(backbone, images):
    answer = run(make(backbone), images)
    samples = answer.sample_probabilities.double()
    assert answer.sample_probabilities.shape == (3, 8, 5)
    torch.testing.assert_close(answer.probabilities.double(), samples.mean(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(answer.total, entropy(answer.probabilities))
    torch.testing.assert_close(answer.aleatoric.double(), entropy(samples).mean(1), atol=1e-5, rtol=0)
    torch.testing.assert_close(answer.total, answer.aleatoric + answer.epistemic, atol=1e-6, rtol=0)
    assert (answer.epistemic > 0).all()
    torch.testing.assert_close(answer.epistemic_corrected, answer.epistemic * 8 / 7)
    assert (answer.prompt_variance > 0).all()


def test_the_prompt_variance_is_that_of_the_prompts(backbone, images):
    model = make(backbone)
    context, noise = model.encode(images), draw_noise([1, 2, 3], 8, model.posterior.noise_width)
    prompts = model.draw(context, noise).prompts.detach()
    torch.testing.assert_close(predict(model, context, noise).prompt_variance, prompts.var(1).mean(-1))


@pytest.mark.parametrize("family", ["deterministic", "shared"])
def test_a_family_without_noise_has_no_epistemic_doubt(backbone, images, family):
    answer = run(make(backbone, family), images)
    assert answer.sample_probabilities.shape == (3, 8, 5)
    assert torch.equal(answer.epistemic, torch.zeros(3))
    assert torch.equal(answer.prompt_variance, torch.zeros(3))


def test_one_sample_knows_no_epistemic_doubt(backbone, images):
    answer = run(make(backbone), images, num_samples=1)
    for doubt in (answer.epistemic, answer.epistemic_corrected, answer.prompt_variance):
        assert torch.equal(doubt, torch.zeros(3))


def test_eight_samples_are_the_head_of_sixteen(backbone, images):
    model = make(backbone)
    few, many = run(model, images, num_samples=8), run(model, images, num_samples=16)
    torch.testing.assert_close(few.sample_probabilities, many.sample_probabilities[:, :8], atol=1e-6, rtol=0)
    assert torch.equal(draw_noise([7], 8, 6), draw_noise([7], 16, 6)[:, :8])


def test_noise_is_a_function_of_the_seed_alone():
    noise = draw_noise([3, 2**64 - 1, 3], 1000, 5)
    assert noise.dtype == torch.float32
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise[0], noise[1])
    assert noise.mean().item() == pytest.approx(0.0, abs=0.04)
    assert noise.std().item() == pytest.approx(1.0, abs=0.02)
    # pinned: an answer given today must be given again next year
    assert draw_noise([3], 1, 3).flatten().tolist() == pytest.approx(
        [1.8400526, -1.0379294, 0.3216514], abs=1e-6
    )


def test_the_default_seed_depends_on_the_image_and_on_the_version():
    seeds = {derive_seed(image, digest) for image in (b"one", b"two") for digest in (DIGEST, DIGEST[::-1])}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert derive_seed(b"one", DIGEST) == 16169785678955494059  # pinned: it must replay next year


def test_the_same_request_gives_the_same_bits(backbone, images):
    model = make(backbone)
    assert torch.equal(run(model, images).probabilities, run(model, images).probabilities)


def test_a_class_prior_multiplies_each_samples_odds(backbone, images):
    model, prior = make(backbone), torch.tensor([0.5, 0.2, 0.1, 0.2, 0.0])
    plain, adjusted = run(model, images), run(model, images, class_prior=prior)
    expected = plain.sample_probabilities * prior
    expected = expected / expected.sum(-1, keepdim=True)
    torch.testing.assert_close(adjusted.sample_probabilities, expected, atol=1e-6, rtol=1e-5)
    assert torch.equal(adjusted.probabilities[:, 4], torch.zeros(3))
    assert torch.isfinite(adjusted.total).all()


def test_entropy_has_known_values():
    probabilities = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    assert entropy(probabilities).tolist() == pytest.approx([math.log(4), 0.0, math.log(2)])


def test_the_two_parts_of_the_epistemic_entropy_sum_to_it(backbone, images):
    model = make(backbone)
    noise = nested_noise([1, 2, 3], 4, 6, 3, model.posterior.noise_width)
    answer = predict(model, model.encode(images), noise)
    split = split_epistemic(answer.sample_probabilities, 4)
    torch.testing.assert_close(split.implicit + split.explicit, answer.epistemic, atol=1e-6, rtol=0)
    assert (split.implicit >= 0).all()
    assert (split.explicit >= 0).all()


def test_nested_noise_repeats_eps_within_a_group_and_never_u():
    noise = nested_noise([1, 2], 3, 4, 2, 5).view(2, 3, 4, 5)
    assert torch.equal(noise[..., :2], noise[:, :, :1, :2].expand(-1, -1, 4, -1))
    assert len(np.unique(noise[..., 0].numpy())) == 2 * 3
    assert len(np.unique(noise[..., 4].numpy())) == 2 * 3 * 4


def test_samples_that_differ_between_groups_alone_are_implicit_doubt():
    groups = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat_interleave(3, dim=0)[None]
    split = split_epistemic(groups, 2)
    assert split.implicit.item() == pytest.approx(math.log(2))
    assert split.explicit.item() == pytest.approx(0.0)


def test_samples_that_differ_within_groups_alone_are_explicit_doubt():
    groups = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(2, 1)[None]
    split = split_epistemic(groups, 2)
    assert split.implicit.item() == pytest.approx(0.0)
    assert split.explicit.item() == pytest.approx(math.log(2))
    assert split.explicit_corrected.item() == pytest.approx(2 * math.log(2))
    assert split.implicit_corrected.item() == 0.0


def test_without_mixing_noise_the_corrected_implicit_part_nearly_vanishes(backbone, images):
    semi, gaussian = make(backbone), make(backbone, "gaussian")
    options = {"num_groups": 24, "group_size": 8}
    with_noise = epistemic_split(semi, semi.encode(images), [1, 2, 3], **options)
    without = epistemic_split(gaussian, gaussian.encode(images), [1, 2, 3], **options)
    assert (without.implicit_corrected < 0.25 * without.explicit_corrected).all()
    assert with_noise.implicit_corrected.mean() > 4 * without.implicit_corrected.mean()
