"""What the generator reads instead of the features has their width and scale, and no test label in it."""

import conditions
import pytest
import torch
from tests.benchmarks.fleets import make_fleet


@pytest.mark.parametrize("condition", [conditions.group, conditions.classes, conditions.style])
def test_a_condition_has_the_features_width_and_mean_square(encoded, condition):
    fleet = make_fleet(encoded)
    read = condition(fleet)
    assert read.shape[1:] == fleet.features.shape
    mine = read[0, fleet.train_indices.flatten()]
    assert mine.square().mean().item() == pytest.approx(1.0, rel=0.1)


def test_no_image_is_told_from_another_where_nothing_is_read(encoded):
    assert not conditions.nothing(make_fleet(encoded)).any()


def test_groups_are_few_and_every_image_is_in_one(encoded):
    read = conditions.group(make_fleet(encoded))[0]
    assert 1 < len(torch.unique(read, dim=0)) <= 6


def test_class_weights_differ_between_sites_with_different_class_priors(encoded):
    fleet = make_fleet(encoded)
    fleet.train_indices[0] = fleet.train_indices[0][fleet.labels[fleet.train_indices[0]] == 0][0]
    read = conditions.classes(fleet)
    assert not torch.allclose(read[0], read[1])
