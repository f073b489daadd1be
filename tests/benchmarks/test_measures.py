import numpy as np
import pytest
import torch
from fleet import Answers
from measures import auroc, ece, novelty_measures, paired


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    sure = np.eye(2)[[0, 1, 0]]
    assert ece(sure, np.array([0, 1, 0])) == 0
    assert ece(sure, np.array([1, 0, 1])) == 1


def test_auroc_of_a_perfect_a_reversed_and_a_constant_score():
    positive = np.array([False, False, True, True])
    assert auroc(np.arange(4.0), positive) == 1
    assert auroc(-np.arange(4.0), positive) == 0
    assert auroc(np.ones(4), positive) == 0.5


def answers(probabilities, epistemic) -> Answers:
    """Of one site, with as many images as there are rows."""
    p, doubt = torch.tensor([probabilities]), torch.tensor([epistemic])
    labels = torch.zeros(p.shape[:2], dtype=torch.long)
    return Answers(p, labels, doubt, labels)


def test_doubt_tells_what_is_strange_by_each_entropy_for_itself():
    known = answers([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], [0.3, 0.2, 0.1])
    strange = answers([[0.6, 0.4], [0.75, 0.25]], [0.0, 0.0])
    found = novelty_measures(known, strange)
    assert found["auroc_total"] == pytest.approx(5 / 6)  # (0.75, 0.25) is surer than (0.7, 0.3)
    assert found["auroc_epistemic"] == 0.0


def test_a_constant_lead_has_an_interval_of_no_width():
    theirs = np.random.default_rng(0).random((5, 6))
    lead = paired(theirs + 0.02, theirs)
    assert lead["mean"] == pytest.approx(0.02)
    assert lead["low"] == pytest.approx(0.02)
    assert lead["high"] == pytest.approx(0.02)


def test_the_interval_is_of_what_seeds_say_however_many_sites_say_it():
    """0.1, 0.2 and 0.3: a mean of 0.2, a standard error of 0.1 / sqrt(3), and 4.303 of them."""
    theirs = np.zeros((3, 6))
    lead = paired(theirs + np.array([[0.1], [0.2], [0.3]]), theirs)
    assert lead["high"] - lead["mean"] == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert lead["low"] + lead["high"] == pytest.approx(0.4)
    assert lead["p"] == pytest.approx(0.0742, abs=1e-4)


def test_one_seed_is_compared_over_its_sites_and_one_site_has_no_interval():
    several = paired(np.array([[0.1, 0.2, 0.3]]), np.zeros((1, 3)))
    assert several["high"] - several["mean"] == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    one = paired(np.ones((1, 1)), np.zeros((1, 1)))
    assert one["mean"] == 1
    assert np.isnan(one["low"])
    assert np.isnan(one["p"])


def test_noise_alone_is_no_lead():
    rng = np.random.default_rng(1)
    lead = paired(rng.normal(size=(5, 8)), rng.normal(size=(5, 8)))
    assert lead["low"] < 0 < lead["high"]
