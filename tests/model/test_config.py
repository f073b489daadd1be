"""The model's configuration mirrors the federation's specification and refuses what makes no sense."""

from dataclasses import fields

import pytest

from pfedbayespt.model.config import (
    BackboneConfig,
    ConfigError,
    HeadConfig,
    InsertionConfig,
    ModelConfig,
    PosteriorConfig,
    TrainingConfig,
)
from pfedbayespt.protocol import FederationSpecification
from pfedbayespt.protocol import federations as wire

PAIRS = [
    (BackboneConfig, wire.BackboneSpecification),
    (InsertionConfig, wire.InsertionSpecification),
    (PosteriorConfig, wire.PosteriorSpecification),
    (HeadConfig, wire.HeadSpecification),
    (TrainingConfig, wire.TrainingSpecification),
]


@pytest.fixture
def specification() -> FederationSpecification:
    return FederationSpecification(
        classes=("bird", "fruit", "tool"),
        backbone=wire.BackboneSpecification(
            architecture="vit_small_patch14_dinov2",
            weights_digest=f"sha256:{'0' * 64}",
            image_size_pixels=112,
        ),
        posterior=wire.PosteriorSpecification(family="gaussian", latent_dim=7),
        training=wire.TrainingSpecification(beta=0.5),
    )


@pytest.mark.parametrize(("config", "message"), PAIRS)
def test_every_config_has_the_fields_and_defaults_of_its_specification(config, message):
    ours = {field.name: field.default for field in fields(config)}
    theirs = message.model_fields
    assert set(ours) == set(theirs)
    required = {name for name, field in theirs.items() if field.is_required()}
    assert {n: v for n, v in ours.items() if n not in required} == {
        name: field.default for name, field in theirs.items() if name not in required
    }


@pytest.mark.parametrize("mode", ["python", "json"])
def test_a_specification_reads_the_same_from_python_and_from_json(specification, mode):
    mapping = specification.model_dump(mode=mode)
    model = ModelConfig.from_specification(mapping)
    assert model == ModelConfig(num_classes=3, posterior=PosteriorConfig(family="gaussian", latent_dim=7))
    assert TrainingConfig.from_specification(mapping) == TrainingConfig(beta=0.5)
    backbone = BackboneConfig.from_specification(mapping)
    assert backbone.mean == specification.backbone.mean
    assert isinstance(hash(backbone), int)


def test_a_field_that_is_not_known_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"PosteriorConfig does not know \['latent_width'\]"):
        ModelConfig.from_specification({"classes": ["a", "b"], "posterior": {"latent_width": 3}})


def test_a_field_that_is_missing_is_named():
    with pytest.raises(ConfigError, match="architecture"):
        BackboneConfig.from_specification({"backbone": {}})
    with pytest.raises(ConfigError, match="no classes"):
        ModelConfig.from_specification({})


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: InsertionConfig(kind="sideways"), "InsertionConfig.kind is 'sideways'; allowed: twoway"),
        (lambda: PosteriorConfig(dropout=1.0), "dropout is 1.0; allowed: 0 <= dropout < 1"),
        (lambda: PosteriorConfig(latent_dim=0), "latent_dim is 0; allowed: more than 0"),
        (lambda: HeadConfig(mid_block=0), "mid_block is 0"),
        (lambda: ModelConfig(num_classes=1), "num_classes is 1; allowed: two classes or more"),
        (lambda: TrainingConfig(beta=-1.0), "beta is -1.0; allowed: 0 or more"),
        (lambda: TrainingConfig(gradient_estimator="score"), "gradient_estimator is 'score'"),
        (lambda: TrainingConfig.from_specification({"training": 3}), "training is 3; allowed: a mapping"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(build, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        build()
