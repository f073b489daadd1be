"""Files in, parameters out: what the federation's model at a site takes and refuses."""

import numpy as np
import pytest
import torch
from tests.client_sdk.harness import Coordinator

from pfedbayespt.cli.founding import initial_parameters_file
from pfedbayespt.client.errors import IntegrityError, StateError
from pfedbayespt.client.federation_model import FederationModel
from pfedbayespt.client.learner import class_prior_of
from pfedbayespt.client.personal import PersonalManifest
from pfedbayespt.model.config import HeadConfig
from pfedbayespt.model.parameters import load_personal_parameters, personal_parameters
from pfedbayespt.model.sources import InMemoryContexts
from pfedbayespt.protocol import FederationSpecification, tensors

PERSONAL = PersonalManifest(model_version=0)


@pytest.fixture
def specification(coordinator: Coordinator) -> FederationSpecification:
    return coordinator.specification(head={"personal_residual": True})


@pytest.fixture
def model(coordinator: Coordinator, specification: FederationSpecification) -> FederationModel:
    return FederationModel.load(specification, coordinator.backbone_file, torch.device("cpu"))


@pytest.fixture
def version_0(coordinator: Coordinator, specification: FederationSpecification) -> bytes:
    return initial_parameters_file("shapes", specification, coordinator.backbone_file)


def personal_file(model: FederationModel, value: float) -> bytes:
    now = personal_parameters(model.classifier)
    filled = {name: np.full_like(values, value) for name, values in now.items()}
    return tensors.encode(filled, PERSONAL)


def test_parameters_are_taken_and_given_back(model: FederationModel, version_0: bytes) -> None:
    taken = model.take(version_0, None)
    assert taken.keys() == model.shared().keys()
    assert all(np.array_equal(values, model.shared()[name]) for name, values in taken.items())
    model.take(version_0, personal_file(model, 0.5))
    assert model.personal_file(PERSONAL) == personal_file(model, 0.5)


def test_without_a_file_personal_parameters_are_zero_again(model: FederationModel, version_0: bytes) -> None:
    """A round that was left must not leave its residual behind."""
    model.take(version_0, personal_file(model, 0.5))
    model.take(version_0, None)
    assert model.personal_file(PERSONAL) == personal_file(model, 0.0)


def test_a_twin_shares_the_backbone_and_nothing_else(model: FederationModel, version_0: bytes) -> None:
    twin = model.twin()
    twin.take(version_0, personal_file(model, 0.5))
    model.take(version_0, None)
    assert twin.personal_file(PERSONAL) == personal_file(model, 0.5)
    assert twin.classifier.insertion.backbone is model.classifier.insertion.backbone


def test_files_that_do_not_fit_say_whose_they_are(model: FederationModel, version_0: bytes) -> None:
    with pytest.raises(IntegrityError, match="missing parameters"):
        model.take(personal_file(model, 0.0), None)
    with pytest.raises(IntegrityError, match="do not fit"):
        model.take(version_0[:-1], None)
    with pytest.raises(StateError, match="personal parameters do not fit"):
        model.take(version_0, version_0)


def test_what_calibrates_a_version_is_of_its_shared_parameters_alone(
    model: FederationModel, version_0: bytes
) -> None:
    images = torch.randn(7, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    held_out = InMemoryContexts.encode(model.classifier.insertion, [images], torch.arange(7) % 2)
    model.take(version_0, None)
    plain = model.sketch(held_out)
    assert plain.num_examples == len(plain.scores) == 7
    now = personal_parameters(model.classifier)
    load_personal_parameters(model.classifier, {name: values + 0.5 for name, values in now.items()})
    assert model.sketch(held_out) == plain
    assert all(values.min() == 0.5 for values in personal_parameters(model.classifier).values())


@pytest.mark.parametrize(
    ("head", "has_prior"),
    [
        (HeadConfig(), False),
        (HeadConfig(label_shift=True), True),
        (HeadConfig(personal_residual=True), False),
        (HeadConfig(label_shift=True, personal_residual=True), False),
    ],
)
def test_the_class_prior_is_put_back_only_where_nothing_else_has_learnt_it(
    head: HeadConfig, has_prior: bool
) -> None:
    prior = class_prior_of(torch.tensor([0, 0, 0, 1]), head, 2)
    assert (prior is not None) == has_prior
    if prior is not None:
        assert torch.allclose(prior, torch.tensor([0.75, 0.25], dtype=torch.float64))
