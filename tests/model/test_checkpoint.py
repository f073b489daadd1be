"""A training that goes on from a checkpoint ends where an undisturbed one ends, to the bit."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load

from pfedbayespt.model.checkpoint import CheckpointError
from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import (
    HeadConfig,
    InsertionConfig,
    ModelConfig,
    PosteriorConfig,
    TrainingConfig,
)
from pfedbayespt.model.parameters import personal_parameters, shared_parameters
from pfedbayespt.model.sources import InMemoryContexts
from pfedbayespt.model.training import train_round

CONFIG = ModelConfig(
    num_classes=3,
    insertion=InsertionConfig(num_blocks=2, prompt_length=2),
    posterior=PosteriorConfig(latent_dim=4, noise_dim=3, hidden_dim=8, dropout=0.2),
    head=HeadConfig(mid_block=3, label_shift=True, personal_residual=True),
)
TRAINING = TrainingConfig(local_epochs=3, batch_size=8, num_mixing_samples=2)
ROUND = {"round_number": 2, "num_rounds": 4, "seed": 1}


@pytest.fixture(scope="module")
def site(backbone) -> InMemoryContexts:
    images = torch.randn(20, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    insertion = build_classifier(CONFIG, backbone, torch.Generator()).insertion
    return InMemoryContexts.encode(insertion, [images], torch.arange(20) % 3)


def untrained(backbone, config=CONFIG):
    return build_classifier(config, backbone, torch.Generator().manual_seed(0))


def everything(model) -> dict[str, bytes]:
    parameters = {**shared_parameters(model), **personal_parameters(model)}
    return {name: array.tobytes() for name, array in parameters.items()}


@pytest.fixture(scope="module")
def undisturbed(backbone, site):
    """The model, its metrics, and a checkpoint of every epoch."""
    model, kept = untrained(backbone), []
    metrics = train_round(model, site, TRAINING, **ROUND, on_checkpoint=kept.append)
    return model, metrics, kept


@pytest.mark.parametrize("epochs_done", [1, 2, 3])
def test_going_on_after_any_epoch_ends_at_the_same_bits(backbone, site, undisturbed, epochs_done) -> None:
    expected, metrics, kept = undisturbed
    model, trained = untrained(backbone), []
    again = train_round(
        model,
        site,
        TRAINING,
        **ROUND,
        checkpoint=kept[epochs_done - 1],
        on_epoch=lambda epoch, _: trained.append(epoch),
    )
    assert everything(model) == everything(expected)
    assert again == metrics
    assert trained == list(range(epochs_done + 1, 4)), "no epoch is trained twice"


def test_the_same_training_gives_the_same_checkpoint(backbone, site, undisturbed) -> None:
    kept = []
    train_round(untrained(backbone), site, TRAINING, **ROUND, on_checkpoint=kept.append)
    assert kept == undisturbed[2]


def test_a_checkpoint_holds_neither_images_nor_the_trunk(undisturbed) -> None:
    model, _, (first, *_) = undisturbed
    trainable = [*model.posterior.named_parameters("posterior"), *model.readout.named_parameters("readout")]
    named = {name.partition(".")[::2] for name in load(first)}
    assert {kind for kind, _ in named} == {"parameter", "optimizer", "generator"}
    assert {name for kind, name in named if kind == "parameter"} == {name for name, _ in trainable}


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x08" + b"\x00" * 7 + b'{"a": 1}'])
def test_what_is_no_checkpoint_is_refused(backbone, site, content) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint of such a training"):
        train_round(untrained(backbone), site, TRAINING, **ROUND, checkpoint=content)


def test_a_torn_checkpoint_is_refused(backbone, site, undisturbed) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint of such a training"):
        train_round(untrained(backbone), site, TRAINING, **ROUND, checkpoint=undisturbed[2][0][:-1])


def test_a_checkpoint_of_another_model_is_refused(backbone, site, undisturbed) -> None:
    other = untrained(backbone, replace(CONFIG, posterior=replace(CONFIG.posterior, hidden_dim=12)))
    with pytest.raises(CheckpointError, match="shape"):
        train_round(other, site, TRAINING, **ROUND, checkpoint=undisturbed[2][0])


def test_a_checkpoint_of_other_images_is_refused(backbone, site, undisturbed) -> None:
    fewer = InMemoryContexts(site.context.select(torch.arange(19)), site.labels[:19])
    with pytest.raises(CheckpointError, match="20 images, not on 19"):
        train_round(untrained(backbone), fewer, TRAINING, **ROUND, checkpoint=undisturbed[2][0])
