import numpy as np
import pytest
from partition import Setting, partition

SMALL = {"num_sites": 4, "num_train": 20, "num_test": 15}


@pytest.mark.parametrize("kind", ["F1", "F2", "F3"])
def test_no_training_image_is_at_two_sites_and_none_is_a_test_image(pool, kind):
    split = partition(pool, Setting(kind, **SMALL), seed=0)
    assert len(np.unique(split.train)) == 4 * 20
    assert not pool.is_test[split.train].any()
    assert pool.is_test[split.test].all()


def test_a_validation_split_takes_training_images_of_groups_that_nobody_trains_on(pool):
    split = partition(pool, Setting("F2", **SMALL), seed=0, validate=True)
    assert not pool.is_test[split.train].any()
    assert not pool.is_test[split.test].any()
    assert not np.intersect1d(pool.groups[split.train], pool.groups[split.test]).size


def test_in_f1_every_site_holds_one_domain(pool):
    split = partition(pool, Setting("F1", **SMALL), seed=0)
    assert all(len(np.unique(pool.domains[row])) == 1 for row in np.hstack([split.train, split.test]))


def test_training_and_test_images_follow_the_sites_mixture(pool):
    split = partition(pool, Setting("F2", alpha_domain=0.5, num_sites=2, num_train=30, num_test=25), seed=3)
    for train, test, mixture in zip(split.train, split.test, split.domain_mixture, strict=True):
        assert (pool.domains[train] == 0).mean() == pytest.approx(mixture[0], abs=0.25)
        assert (pool.domains[test] == 0).mean() == pytest.approx(mixture[0], abs=0.3)


def test_pathological_sites_hold_only_their_classes(pool):
    split = partition(pool, Setting("F2", classes_per_site=1, num_sites=2, num_train=10, num_test=5), seed=1)
    assert all(len(np.unique(pool.labels[row])) == 1 for row in split.train)


def test_a_held_out_domain_is_at_no_site(pool):
    split = partition(pool, Setting("F2", held_out_domain=1, num_sites=2, num_train=20, num_test=5), seed=1)
    assert not pool.domains[split.train].any()


def test_the_same_seed_deals_the_same_images(pool):
    first, again, other = (partition(pool, Setting("F2", **SMALL), seed=s).train for s in (5, 5, 6))
    assert (first == again).all()
    assert (first != other).any()


def test_too_few_images_are_an_error(pool):
    with pytest.raises(ValueError, match="a site needs 100"):
        partition(pool, Setting("F2", num_sites=2, num_train=100, num_test=5), seed=0)


def test_unseen_sites_train_nothing_and_leave_the_others_as_they_are(pool):
    without, with_two = (partition(pool, Setting("F2", **SMALL, num_unseen=n), seed=4) for n in (0, 2))
    assert with_two.unseen.shape == (2, 15)
    assert pool.is_test[with_two.unseen].all()
    assert (without.train == with_two.train).all()


def test_a_held_out_domain_is_all_that_unseen_sites_hold(pool):
    setting = Setting("F2", held_out_domain=1, num_sites=2, num_train=20, num_test=5, num_unseen=2)
    split = partition(pool, setting, seed=1)
    assert (pool.domains[split.unseen] == 1).all()
    assert not pool.domains[np.hstack([split.train, split.test])].any()
