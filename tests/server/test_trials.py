"""A version on trial: whom it answers, how it is compared, and what ends it."""

import base64
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.server.harness import Coordinator, check, problem_of, running, settings_for

from pfedbayespt.protocol import ClassProbability, Prediction, PredictionRequest, Uncertainty, digest_of_bytes
from pfedbayespt.server.errors import InferenceUnavailable
from pfedbayespt.server.predictions.predictor import Answer, ServableVersion, TrialVersion
from pfedbayespt.server.predictions.preloading import wanted_versions
from pfedbayespt.server.predictions.trying import is_chosen, total_variation
from pfedbayespt.server.trials.writing import TallyWriter

PATH = "/v1/federations/alpha/predictions"
TRIALS = "/v1/federations/alpha/trials"
SERVING, TRIED = 1, 0


class TwoMinds:
    """Says for each version what it is told to say."""

    def __init__(self) -> None:
        self.says: dict[int, tuple[float, ...]] = {SERVING: (0.6, 0.3, 0.1), TRIED: (0.5, 0.4, 0.1)}
        self.broken: set[int] = set()
        self.seeds: dict[int, list[int]] = {SERVING: [], TRIED: []}

    def check_available(self) -> None:
        """Return."""

    def prepare(self, version: ServableVersion) -> None:
        """Return."""

    def predict(
        self, version: ServableVersion, request: PredictionRequest, site_id: str | None = None
    ) -> Answer:
        if version.number in self.broken:
            raise InferenceUnavailable(f"version {version.number} is broken")
        seed = version.number if request.seed is None else request.seed
        self.seeds[version.number].append(seed)
        ranked = sorted(
            zip(version.specification.classes, self.says[version.number], strict=True),
            key=lambda one: -one[1],
        )
        prediction = Prediction(
            federation=version.federation,
            label=ranked[0][0],
            probabilities=tuple(ClassProbability(label=c, probability=p) for c, p in ranked)[: request.top_k],
            uncertainty=Uncertainty(**dict.fromkeys(Uncertainty.model_fields, 0.0)),
            model_version=version.number,
            model_digest=version.digest,
            num_samples=request.num_samples,
            seed=seed,
            image_digest=digest_of_bytes(request.image),
        )
        return Answer(prediction, {"sample": 0.5 if version.number == TRIED else 0.25})


@pytest.fixture
def minds() -> TwoMinds:
    return TwoMinds()


@pytest.fixture
def serving(tmp_path: Path, minds: TwoMinds) -> Iterator[Coordinator]:
    """A coordinator whose version 1 serves, and version 0 did before."""
    with running(settings_for(tmp_path / "data")) as coordinator:
        state = coordinator.http.app.state
        state.predictions = replace(state.predictions, predictor=minds)
        coordinator.federation(min_sites_to_start=1, quorum=1, num_rounds=1)
        coordinator.publish_statistics(coordinator.sites(1))
        assert coordinator.admin.get("/v1/federations/alpha")["serving_version"] == SERVING
        yield coordinator


def start(coordinator: Coordinator, **terms: Any) -> str:
    return str(coordinator.admin.post(TRIALS, {"model_version": TRIED, **terms}, status=201)["trial_id"])


def ask(coordinator: Coordinator, image: bytes = b"image", key: str | None = None, **params: Any) -> Any:
    headers = {"Content-Type": "image/png"} | ({} if key is None else {"X-Sticky-Key": key})
    return check(coordinator.admin.request("POST", PATH, content=image, headers=headers, params=params), 200)


def read(coordinator: Coordinator, trial_id: str) -> Any:
    """Have what was seen written down, and read the trial."""
    predictions = coordinator.http.app.state.predictions
    TallyWriter(coordinator.context.database, predictions.tallies, 1.0).write()
    return coordinator.admin.get(f"{TRIALS}/{trial_id}")


def read_when(coordinator: Coordinator, trial_id: str, count: str, number: int) -> Any:
    """Read the trial once so many were counted: comparisons come after the answers."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        trial = read(coordinator, trial_id)
        if trial["tally"][count] >= number:
            return trial
        time.sleep(0.01)
    raise AssertionError(f"{count} never came to {number}: {trial}")


def actions(coordinator: Coordinator) -> list[str]:
    return [event["action"] for event in coordinator.admin.get("/v1/federations/alpha/events")["items"]]


# Who answers


def test_the_same_keys_are_chosen_again_and_a_larger_share_keeps_them() -> None:
    candidate = ServableVersion("alpha", None, "", 2, digest_of_bytes(b"two"))  # type: ignore[arg-type]
    trial = TrialVersion("trl_1", candidate, 0.1, 0.0, "caller")
    keys = [f"caller-{number}".encode() for number in range(4000)]
    few = {key for key in keys if is_chosen(trial, 0.1, "answer", key)}
    more = {key for key in keys if is_chosen(trial, 0.3, "answer", key)}
    again = {key for key in keys if is_chosen(replace(trial, trial_id="trl_2"), 0.1, "answer", key)}
    assert few == again
    assert few < more
    assert len(few) == pytest.approx(400, abs=4 * 19)  # four standard deviations of a binomial
    assert not any(is_chosen(trial, 0.0, "answer", key) for key in keys)
    assert all(is_chosen(trial, 1.0, "answer", key) for key in keys)


def test_a_key_gets_one_version_for_as_long_as_the_trial_lasts_and_answers_name_it(
    serving: Coordinator,
) -> None:
    trial_id = start(serving, answer_share=0.5, compare_share=0.0)
    keys = [f"patient-{number}" for number in range(30)]
    first = {key: ask(serving, key=key)["model_version"] for key in keys}
    assert set(first.values()) == {SERVING, TRIED}
    assert {key: ask(serving, key=key, image=b"another")["model_version"] for key in keys} == first
    digests = {version["version_number"]: version["digest"] for version in serving.versions()}
    assert all(ask(serving, key=key)["model_digest"] == digests[first[key]] for key in keys)
    serving.admin.post(f"{TRIALS}/{trial_id}/stop")
    assert {ask(serving, key=key)["model_version"] for key in keys} == {SERVING}


def test_without_a_key_the_caller_decides_or_the_image(serving: Coordinator) -> None:
    images = [bytes([number]) for number in range(30)]
    by_caller = start(serving, answer_share=0.5, compare_share=0.0)
    assert len({ask(serving, image)["model_version"] for image in images}) == 1
    serving.admin.post(f"{TRIALS}/{by_caller}/stop")
    start(serving, answer_share=0.5, compare_share=0.0, sticky_by="image")
    assert {ask(serving, image)["model_version"] for image in images} == {SERVING, TRIED}


def test_whoever_names_a_version_gets_it(serving: Coordinator) -> None:
    start(serving, answer_share=1.0)
    assert ask(serving)["model_version"] == TRIED
    assert ask(serving, model_version=SERVING)["model_version"] == SERVING


def test_batches_and_tensors_are_of_one_version(serving: Coordinator, minds: TwoMinds) -> None:
    start(serving, answer_share=1.0, compare_share=0.0)
    image = base64.b64encode(b"image").decode()
    tensor = {"name": "image", "shape": [2], "datatype": "BYTES", "data": [image, image]}
    for number in (TRIED, SERVING):  # first both work, then the one on trial is broken
        batch = serving.admin.post(f"{PATH}/batch", {"images": [image, image]})["items"]
        assert {item["prediction"]["model_version"] for item in batch} == {number}
        answer = serving.admin.post("/v2/models/alpha/infer", {"inputs": [tensor]})
        assert answer["model_version"] == str(number)
        minds.broken.add(TRIED)


# What is seen


def test_the_shadow_is_compared_on_the_same_seed_and_the_answer_is_the_serving_ones(
    serving: Coordinator, minds: TwoMinds
) -> None:
    trial_id = start(serving)
    answer = ask(serving, top_k=1)
    assert (answer["model_version"], len(answer["probabilities"])) == (SERVING, 1)
    tally = read_when(serving, trial_id, "num_compared", 1)["tally"]
    assert (tally["num_flips"], tally["num_errors"], tally["num_answered"]) == (0, 0, 0)
    assert tally["mean_distance"] == pytest.approx(0.1)
    assert (tally["mean_trial_seconds"], tally["mean_serving_seconds"]) == (0.5, 0.25)
    assert minds.seeds[TRIED] == minds.seeds[SERVING] == [SERVING]


@pytest.mark.parametrize("params", [{}, {"top_k": 2}, {"num_samples": 8, "seed": 5}])
def test_whoever_asks_gets_the_same_bytes_with_a_shadow_and_without(
    serving: Coordinator, minds: TwoMinds, params: dict[str, int]
) -> None:
    headers = {"Content-Type": "image/png"}

    def bytes_of_answer() -> bytes:
        answer = serving.admin.request("POST", PATH, content=b"image", headers=headers, params=params)
        return bytes(answer.content)

    before = bytes_of_answer()
    minds.says[TRIED] = (0.0, 0.0, 1.0)
    trial_id = start(serving)
    assert bytes_of_answer() == before
    assert read_when(serving, trial_id, "num_compared", 1)["tally"]["num_flips"] == 1


def test_total_variation_is_half_the_sum_of_differences(minds: TwoMinds, serving: Coordinator) -> None:
    start(serving, compare_share=0.5)
    minds.says[TRIED] = (0.0, 0.0, 1.0)
    one, other = (Prediction(**ask(serving, model_version=number)) for number in (SERVING, TRIED))
    assert total_variation(one, one) == 0.0
    assert total_variation(one, other) == pytest.approx(0.9)


# What ends it


def test_other_labels_end_the_trial_and_leave_an_event(serving: Coordinator, minds: TwoMinds) -> None:
    minds.says[TRIED] = (0.3, 0.6, 0.1)
    trial_id = start(serving, min_requests=3, max_mean_distance=1.0)
    for number in range(3):
        assert read(serving, trial_id)["status"] == "running"
        ask(serving, bytes([number]))
        trial = read_when(serving, trial_id, "num_compared", number + 1)
    assert trial["status"] == "tripped"
    assert "share of other labels 1.000 of 3 is above 0.2" in trial["reason"]
    assert actions(serving)[-1] == "trial.tripped"
    ask(serving)
    assert read(serving, trial_id)["tally"]["num_compared"] == 3


def test_errors_cost_the_caller_nothing_and_end_the_trial(serving: Coordinator, minds: TwoMinds) -> None:
    minds.broken.add(TRIED)
    trial_id = start(serving, answer_share=1.0, compare_share=0.0, min_requests=2)
    assert [ask(serving)["model_version"] for _ in range(2)] == [SERVING, SERVING]
    trial = read(serving, trial_id)
    assert (trial["status"], trial["tally"]["num_tried"], trial["tally"]["num_errors"]) == ("tripped", 2, 2)


def test_a_distance_beyond_the_bound_ends_the_trial(serving: Coordinator) -> None:
    trial_id = start(serving, min_requests=1, max_mean_distance=0.05)
    ask(serving)
    assert read_when(serving, trial_id, "num_compared", 1)["reason"].startswith("mean distance 0.100")


def test_a_promotion_ends_the_trial(serving: Coordinator) -> None:
    trial_id = start(serving, answer_share=1.0)
    serving.admin.post(f"/v1/federations/alpha/model-versions/{TRIED}/promote")
    trial = serving.admin.get(f"{TRIALS}/{trial_id}")
    assert (trial["status"], trial["reason"]) == ("stopped", "version 0 was promoted")
    assert serving.admin.post(f"{TRIALS}/{trial_id}/stop") == trial
    assert ask(serving)["model_version"] == TRIED


# What may be tried


@pytest.mark.parametrize(
    ("terms", "kind"),
    [
        ({"model_version": SERVING}, "transition_not_allowed"),
        ({"model_version": 7}, "not_found"),
        ({"model_version": TRIED, "compare_share": 0.0}, "invalid_request"),
        ({"model_version": TRIED, "answer_share": 1.5}, "invalid_request"),
    ],
)
def test_what_cannot_be_tried_is_refused(serving: Coordinator, terms: dict[str, Any], kind: str) -> None:
    assert problem_of(serving.admin.request("POST", TRIALS, json=terms)) == kind


def test_one_version_is_tried_at_a_time_and_is_loaded_before_it_is_asked(serving: Coordinator) -> None:
    before = [version.number for version in wanted_versions(serving.context)]
    trial_id = start(serving)
    again = serving.admin.request("POST", TRIALS, json={"model_version": TRIED})
    assert problem_of(again) == "transition_not_allowed"
    assert trial_id in again.json()["detail"]
    assert before == [SERVING]
    assert [version.number for version in wanted_versions(serving.context)] == [TRIED, SERVING]
    assert [trial["trial_id"] for trial in serving.admin.get(TRIALS)["items"]] == [trial_id]
