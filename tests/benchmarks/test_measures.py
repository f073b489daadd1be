import numpy as np
import pytest
from measures import auroc, ece, paired


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    sure = np.eye(2)[[0, 1, 0]]
    assert ece(sure, np.array([0, 1, 0])) == 0
    assert ece(sure, np.array([1, 0, 1])) == 1


def test_auroc_of_a_perfect_a_reversed_and_a_constant_score():
    positive = np.array([False, False, True, True])
    assert auroc(np.arange(4.0), positive) == 1
    assert auroc(-np.arange(4.0), positive) == 0
    assert auroc(np.ones(4), positive) == 0.5


def test_a_constant_lead_has_an_interval_of_no_width():
    theirs = np.random.default_rng(0).random((5, 6))
    lead = paired(theirs + 0.02, theirs)
    assert lead["mean"] == pytest.approx(0.02)
    assert lead["low"] == pytest.approx(0.02)
    assert lead["high"] == pytest.approx(0.02)


def test_noise_alone_is_no_lead():
    rng = np.random.default_rng(1)
    lead = paired(rng.normal(size=(5, 8)), rng.normal(size=(5, 8)))
    assert lead["low"] < 0 < lead["high"]
