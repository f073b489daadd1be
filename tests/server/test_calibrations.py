"""Calibrations: what sketches pool to, by hand; who may add to them; what a prediction makes of them."""

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from tests.server.harness import Coordinator, problem_of

from pfedbayespt.protocol import Calibration, CalibrationPolicy, CalibrationSketch, digest_of_message
from pfedbayespt.protocol.calibrations import TEMPERATURES
from pfedbayespt.server.calibrations.pooling import MIN_SITE_EXAMPLES, pool

LOGS = np.log(TEMPERATURES)


def sketch(own: list[float], **changes: Any) -> CalibrationSketch:
    facts: dict[str, Any] = {
        "num_examples": len(own),
        "negative_log_likelihoods": (1.0,) * len(TEMPERATURES),
        "scores": tuple(sorted(own)),
        "entropies": tuple(np.linspace(0.1, 1.0, len(own))),
        "error_shares": (0.0,) * len(own),
    }
    return CalibrationSketch(**(facts | changes))


def pooled(policy: dict[str, Any] | None = None, **sketches: CalibrationSketch) -> Calibration:
    return pool(3, CalibrationPolicy(**(policy or {})), sketches)


# Pooling


def test_the_threshold_is_the_order_statistic_that_the_theorem_names() -> None:
    scores = [step / 100 for step in range(1, 20)]  # n = 19: ceil(20 * 0.9) = 18th
    assert pooled(a=sketch(scores)).threshold.score == 0.18
    split = pooled(a=sketch(scores[::2]), b=sketch(scores[1::2]))
    assert split.threshold.score == 0.18
    assert split.num_examples == 19


def test_too_few_examples_for_the_target_put_every_class_into_the_set() -> None:
    assert pooled(a=sketch([0.1] * 8)).threshold.score is None  # ceil(9 * 0.9) = 9 > 8
    assert pooled(a=sketch([0.1] * 9)).threshold.score == 0.1


def test_a_target_that_is_no_binary_fraction_is_taken_as_it_is_written() -> None:
    scores = [float(step) for step in range(1, 10)]
    assert (
        pooled({"target_coverage": 0.7}, a=sketch(scores)).threshold.score == 7.0
    )  # 0.7 * 10, not a hair more


def test_sites_weigh_as_many_examples_as_they_have() -> None:
    large = sketch([0.9] * 256, num_examples=2560)
    small = sketch([0.1] * 100)
    assert pooled({"target_coverage": 0.5}, a=large, b=small).threshold.score == 0.9
    assert pooled({"target_coverage": 0.03}, a=large, b=small).threshold.score == 0.1


def test_a_site_of_enough_examples_gets_a_threshold_of_its_own() -> None:
    result = pooled(a=sketch([0.2] * MIN_SITE_EXAMPLES), b=sketch([0.8] * (MIN_SITE_EXAMPLES - 1)))
    assert set(result.site_thresholds) == {"a"}
    assert result.site_thresholds["a"].score == 0.2
    assert result.threshold.score == 0.8


def test_the_temperature_is_where_the_pooled_likelihood_is_best() -> None:
    best = math.log(1.3)
    parabola = tuple(0.5 + (LOGS - best) ** 2)
    result = pooled(a=sketch([0.1] * 10, negative_log_likelihoods=parabola))
    assert result.temperature == pytest.approx(1.3, rel=1e-4)
    assert result.nll_after == pytest.approx(0.5, abs=1e-6)
    assert result.nll_before == pytest.approx(0.5 + best**2, abs=1e-4)


def test_the_temperatures_of_sites_are_weighed_by_their_examples() -> None:
    left, right = (tuple(1 + (LOGS - place) ** 2) for place in (0.0, 0.4))
    result = pooled(
        a=sketch([0.1] * 10, negative_log_likelihoods=left),
        b=sketch([0.1] * 30, negative_log_likelihoods=right),
    )
    assert math.log(result.temperature) == pytest.approx(0.3, abs=1e-4)


@pytest.mark.parametrize(("slope", "temperature"), [(1.0, 0.25), (-1.0, 4.0)])
def test_a_likelihood_that_is_best_at_an_end_of_the_grid_stops_there(
    slope: float, temperature: float
) -> None:
    line = tuple(3 + slope * LOGS)
    assert pooled(a=sketch([0.1], negative_log_likelihoods=line)).temperature == pytest.approx(temperature)


def test_the_target_risk_is_met_with_as_many_answers_as_possible() -> None:
    entropies = (0.1, 0.2, 0.3, 0.4, 0.5)
    told = sketch([0.1] * 5, entropies=entropies, error_shares=(0.0, 1.0, 0.0, 0.0, 1.0))
    rule = pooled({"target_risk": 0.25}, a=told).abstain
    assert rule is not None
    assert (rule.total_entropy_nats, rule.expected_risk, rule.expected_answered_share) == (0.4, 0.25, 0.8)


def test_a_risk_that_cannot_be_met_abstains_from_everything() -> None:
    rule = pooled({"target_risk": 0.1}, a=sketch([0.1] * 4, error_shares=(1.0,) * 4)).abstain
    assert rule is not None
    assert rule.total_entropy_nats is None
    assert rule.expected_answered_share == 0.0


def test_an_asked_for_share_of_images_is_answered_those_of_least_entropy() -> None:
    rule = pooled({"answered_share": 0.6}, a=sketch([0.1] * 5, entropies=(0.1, 0.2, 0.3, 0.4, 0.5))).abstain
    assert rule is not None
    assert (rule.total_entropy_nats, rule.expected_answered_share) == (0.3, 0.6)


def test_pooling_depends_on_nothing_but_the_sketches() -> None:
    rng = np.random.default_rng(0)
    sketches = {name: sketch(list(rng.random(50))) for name in "dbca"}
    forward, backward = (
        pool(1, CalibrationPolicy(), sketches),
        pool(1, CalibrationPolicy(), dict(reversed(sketches.items()))),
    )
    assert digest_of_message(forward) == digest_of_message(backward)
    assert forward.site_ids == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    "change",
    [
        {"scores": (0.5, 0.1)},
        {"scores": (0.1,)},
        {"entropies": (0.1, 0.2, 0.3)},
        {"error_shares": (0.0,)},
        {"error_shares": (0.0, 2.0)},
        {"negative_log_likelihoods": (1.0,)},
        {"scores": (-0.1, 0.1)},
        {"num_examples": 3},
    ],
)
def test_a_sketch_that_is_none_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        sketch([0.1, 0.2], **change)


def test_one_rule_of_abstention_at_most() -> None:
    with pytest.raises(ValidationError, match="not both"):
        CalibrationPolicy(target_risk=0.1, answered_share=0.5)


# Over HTTP


def report(site: Any, version: int, told: CalibrationSketch | None) -> Any:
    body = {"num_examples": 5, "metrics": {"accuracy": 0.5}}
    if told is not None:
        body["calibration"] = told.model_dump(mode="json")
    path = f"/v1/federations/alpha/model-versions/{version}/evaluations/{site.site_id}"
    return site.request("PUT", path, json=body)


def calibration_of(coordinator: Coordinator, version: int = 0) -> Any:
    return coordinator.admin.get(f"/v1/federations/alpha/model-versions/{version}")["calibration"]


def test_each_sketch_calibrates_the_version_anew_and_leaves_an_event(coordinator: Coordinator) -> None:
    coordinator.federation()
    sites = coordinator.sites(2)
    assert calibration_of(coordinator) is None
    told = {site.site_id: sketch([0.1 * (index + 1)] * 20) for index, site in enumerate(sites)}
    for site in sites:
        assert report(site, 0, told[site.site_id]).status_code == 200
    shown = calibration_of(coordinator)
    expected = pool(0, CalibrationPolicy(), told)
    assert Calibration.model_validate(shown["calibration"]) == expected
    assert shown["digest"] == digest_of_message(expected)
    events = coordinator.admin.get("/v1/federations/alpha/events?page_size=100")["items"]
    details = [event["details"] for event in events if event["action"] == "model_version.calibrated"]
    assert sorted(detail["num_examples"] for detail in details) == [20, 40]


def test_a_report_without_scores_calibrates_nothing(coordinator: Coordinator) -> None:
    coordinator.federation()
    (site,) = coordinator.sites(1)
    assert report(site, 0, None).status_code == 200
    assert calibration_of(coordinator) is None


def test_the_same_scores_again_change_nothing_and_others_are_a_conflict(coordinator: Coordinator) -> None:
    coordinator.federation()
    (site,) = coordinator.sites(1)
    assert report(site, 0, sketch([0.1] * 20)).status_code == 200
    before = coordinator.dump()
    assert report(site, 0, sketch([0.1] * 20)).status_code == 200
    for other in (sketch([0.2] * 20), None):
        assert problem_of(report(site, 0, other)) == "evaluation_conflict"
    after = coordinator.dump()
    assert after["calibrations"] == before["calibrations"]
    assert after["calibration_sketches"] == before["calibration_sketches"]


def test_sketches_are_not_given_out_again(coordinator: Coordinator) -> None:
    coordinator.federation()
    (site,) = coordinator.sites(1)
    assert report(site, 0, sketch([0.1] * 20)).json()["evaluation"].get("calibration") is None
    (shown,) = coordinator.versions()[0]["evaluations"]
    assert shown["evaluation"].get("calibration") is None
