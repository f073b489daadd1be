"""A version on trial that fails: whoever asked is answered all the same. What several processes see adds up."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.server.harness import Coordinator, problem_of, running, settings_for
from tests.server.test_metrics import of
from tests.server.test_metrics import read as read_metrics
from tests.server.test_trials import (
    PATH,
    SERVING,
    TRIALS,
    TRIED,
    TwoMinds,
    actions,
    ask,
    read,
    read_when,
    start,
)

from pfedbayespt.protocol import PredictionRequest, digest_of_bytes
from pfedbayespt.server.database import Database
from pfedbayespt.server.errors import ImageRejected, InferenceUnavailable, StorageUnavailable
from pfedbayespt.server.predictions.predictor import Answer, ServableVersion, TrialVersion
from pfedbayespt.server.predictions.preloading import Preloader
from pfedbayespt.server.predictions.trying import is_chosen
from pfedbayespt.server.trials.tallies import Tallies, Tally
from pfedbayespt.server.trials.writing import TallyWriter

FAULTS = (RuntimeError("shapes do not fit"), StorageUnavailable("the store is away"))


class Faulty(TwoMinds):
    """Fails with the version on trial as it is told to, when it answers or already when it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.fault: Exception | None = None
        self.loading_fault: Exception | None = None

    def prepare(self, version: ServableVersion) -> None:
        if version.number == TRIED and self.loading_fault is not None:
            raise self.loading_fault

    def predict(self, version: ServableVersion, request: PredictionRequest, *asker: Any) -> Answer:
        if version.number == TRIED and self.fault is not None:
            raise self.fault
        return super().predict(version, request, *asker)


@pytest.fixture
def mind() -> Faulty:
    return Faulty()


@pytest.fixture
def serving(tmp_path: Path, mind: Faulty) -> Iterator[Coordinator]:
    """A coordinator whose version 1 serves, and version 0 did before."""
    with running(settings_for(tmp_path / "data")) as coordinator:
        state = coordinator.http.app.state
        state.predictions = replace(state.predictions, predictor=mind)
        coordinator.federation(min_sites_to_start=1, quorum=1, num_rounds=1)
        coordinator.publish_statistics(coordinator.sites(1))
        yield coordinator


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_whatever_goes_wrong_in_the_version_on_trial_the_caller_is_answered(
    serving: Coordinator, mind: Faulty, fault: Exception
) -> None:
    trial_id = start(serving, answer_share=1.0, compare_share=0.0)
    mind.fault = fault
    assert ask(serving)["model_version"] == SERVING
    tally = read(serving, trial_id)["tally"]
    assert (tally["num_tried"], tally["num_errors"], tally["num_answered"]) == (1, 1, 0)


def test_what_is_wrong_with_the_image_is_not_the_fault_of_the_version(
    serving: Coordinator, mind: Faulty
) -> None:
    trial_id = start(serving, answer_share=1.0, compare_share=0.0, min_requests=1)
    mind.fault = ImageRejected("this is no image")
    response = serving.admin.request("POST", PATH, content=b"x", headers={"Content-Type": "image/png"})
    assert problem_of(response) == "image_rejected"
    trial = read(serving, trial_id)
    assert (trial["status"], trial["tally"]["num_errors"]) == ("running", 0)


def test_a_crash_in_the_shadow_counts_as_an_error_and_ends_the_trial(
    serving: Coordinator, mind: Faulty
) -> None:
    trial_id = start(serving, min_requests=1)
    mind.fault = RuntimeError("shapes do not fit")
    assert ask(serving)["model_version"] == SERVING
    trial = read_when(serving, trial_id, "num_errors", 1)
    assert (trial["status"], trial["reason"]) == ("tripped", "error share 1.000 of 1 is above 0.05")


def load(coordinator: Coordinator, predictor: Faulty) -> None:
    """Let the preloader look once for what to load."""
    Preloader(coordinator.context, predictor, interval_seconds=1.0)._prepare_all()


def test_a_version_that_cannot_be_loaded_ends_its_trial_before_it_is_asked(
    serving: Coordinator, mind: Faulty
) -> None:
    mind.loading_fault = InferenceUnavailable(
        "model version 0 cannot be loaded: " + "its file is damaged " * 20
    )
    trial_id = start(serving, answer_share=1.0)
    load(serving, mind)
    trial = serving.admin.get(f"{TRIALS}/{trial_id}")
    assert trial["status"] == "tripped"
    assert trial["reason"].startswith("model version 0 cannot be loaded: its file is damaged")
    assert actions(serving)[-1] == "trial.tripped"
    assert ask(serving)["model_version"] == SERVING


def test_a_store_that_is_away_does_not_end_a_trial(serving: Coordinator, mind: Faulty) -> None:
    mind.loading_fault = StorageUnavailable("the store is away")
    trial_id = start(serving)
    load(serving, mind)
    assert serving.admin.get(f"{TRIALS}/{trial_id}")["status"] == "running"


def test_what_two_processes_see_adds_up_and_ends_the_trial_once(serving: Coordinator) -> None:
    trial_id = start(serving, min_requests=4, max_flip_share=0.5)
    databases = [Database(str(serving.context.settings.effective_database_url)) for _ in range(2)]
    try:
        writers = [TallyWriter(database, Tallies(), 1.0) for database in databases]
        for num_flips, writer in zip((0, 3), writers, strict=True):
            seen = Tally(num_tried=3, num_compared=3, num_flips=num_flips, sum_distance=0.25)
            writer._tallies.note(trial_id, seen)
        writers[0].write()
        assert serving.admin.get(f"{TRIALS}/{trial_id}")["status"] == "running"
        writers[1]._tallies.note(trial_id, Tally(num_tried=1, num_compared=1, num_flips=1))
        writers[1].write()
        writers[0]._tallies.note(trial_id, Tally(num_tried=1, num_compared=1, num_flips=1))
        writers[0].write()
    finally:
        for database in databases:
            database.close()
    trial = serving.admin.get(f"{TRIALS}/{trial_id}")
    assert (trial["status"], trial["reason"]) == ("tripped", "share of other labels 0.571 of 7 is above 0.5")
    assert (trial["tally"]["num_compared"], trial["tally"]["num_flips"]) == (7, 4)
    assert trial["tally"]["mean_distance"] == pytest.approx(0.5 / 7)
    assert actions(serving).count("trial.tripped") == 1


def test_a_running_trial_is_in_the_metrics(serving: Coordinator) -> None:
    trial_id = start(serving, answer_share=1.0, compare_share=0.0)
    for _ in range(3):
        ask(serving)
    read(serving, trial_id)
    samples = read_metrics(serving)
    assert of(samples, "pfedbayespt_trial_requests", federation="alpha", outcome="answered") == 3
    assert of(samples, "pfedbayespt_trial_requests", federation="alpha", outcome="failed") == 0


def test_who_is_chosen_is_the_same_in_every_release() -> None:
    candidate = ServableVersion("alpha", None, "", 2, digest_of_bytes(b"two"))  # type: ignore[arg-type]
    trial = TrialVersion("trl_1", candidate, 0.5, 0.0, "caller")
    chosen = [key for key in "abcdefghijklmnop" if is_chosen(trial, 0.5, "answer", key.encode())]
    assert "".join(chosen) == "abcdejnop"
