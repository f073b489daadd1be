"""Several images in one request: each answered or refused by itself, as it would have been alone."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.server.harness import Coordinator, problem_of, running, settings_for
from tests.server.test_predictions import EchoPredictor

from pfedbayespt.protocol import PredictionBatch, PredictionRequest
from pfedbayespt.server.errors import ImageRejected
from pfedbayespt.server.predictions.predictor import Answer, ServableVersion

ALONE = "/v1/federations/alpha/predictions"
PATH = f"{ALONE}/batch"


class PickyPredictor(EchoPredictor):
    """Refuses images that say so."""

    def predict(
        self, version: ServableVersion, request: PredictionRequest, site_id: str | None = None
    ) -> Answer:
        if request.image.startswith(b"bad"):
            raise ImageRejected("it says that it is bad")
        return super().predict(version, request, site_id)


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Coordinator]:
    limits = {"max_image_bytes": 1000, "max_batch_images": 3, "max_batch_bytes": 10_000}
    with running(settings_for(tmp_path / "data", **limits)) as coordinator:
        state = coordinator.http.app.state
        state.predictions = replace(state.predictions, predictor=PickyPredictor())
        coordinator.federation()
        yield coordinator


def as_form(*images: bytes) -> dict[str, Any]:
    return {"files": [("image", (f"{index}.png", image)) for index, image in enumerate(images)]}


def as_json(*images: bytes, **options: Any) -> dict[str, Any]:
    return {"json": {"images": [base64.b64encode(image).decode() for image in images], **options}}


def ask(coordinator: Coordinator, **request: Any) -> Any:
    return coordinator.admin.request("POST", PATH, **request)


@pytest.mark.parametrize("form", [as_form, as_json])
def test_each_image_gets_the_answer_that_it_gets_alone(serving: Coordinator, form: Any) -> None:
    response = ask(serving, **form(b"one", b"two"))
    assert response.status_code == 200, response.text
    items = PredictionBatch.model_validate_json(response.content).items
    assert [(item.index, item.status, item.problem) for item in items] == [(0, 200, None), (1, 200, None)]
    for item, image in zip(items, (b"one", b"two"), strict=True):
        alone = serving.admin.request("POST", ALONE, content=image, headers={"Content-Type": "image/png"})
        assert item.prediction is not None
        assert item.prediction.model_dump_json().encode() == alone.content


@pytest.mark.parametrize("form", [as_form, as_json])
def test_a_bad_image_is_refused_by_itself_and_the_others_are_answered(
    serving: Coordinator, form: Any
) -> None:
    response = ask(serving, **form(b"good", b"bad", b"x" * 1001))
    good, bad, large = PredictionBatch.model_validate_json(response.content).items
    assert (good.status, bad.status, large.status) == (200, 422, 413)
    assert bad.problem is not None
    assert bad.problem.type == "urn:pfedbayespt:problem:image_rejected"
    assert bad.problem.instance == response.headers["x-request-id"]
    assert large.problem is not None
    assert "allowed: 1000" in large.problem.detail
    assert bad.prediction is large.prediction is None


def test_options_hold_for_all_images(serving: Coordinator) -> None:
    from_json = ask(serving, **as_json(b"a", b"b", num_samples=3, seed=7))
    from_form = ask(serving, params={"num_samples": 3, "seed": 7}, **as_form(b"a", b"b"))
    assert from_json.content == from_form.content
    for item in PredictionBatch.model_validate_json(from_json.content).items:
        assert item.prediction is not None
        assert (item.prediction.num_samples, item.prediction.seed) == (3, 7)


@pytest.mark.parametrize("form", [as_form, as_json])
def test_too_many_images_are_refused_as_a_whole_saying_how_many_may_come(
    serving: Coordinator, form: Any
) -> None:
    response = ask(serving, **form(b"1", b"2", b"3", b"4"))
    assert problem_of(response) == "invalid_request"
    assert "3" in response.json()["detail"]


@pytest.mark.parametrize(
    "request_",
    [
        as_json(),
        {"json": {"image": "YQ=="}},
        {"files": {"picture": ("x", b"a")}},
        {"files": {"image": ("x", b"a")}, "data": {"num_samples": "8"}},
        {"json": {"images": ["!"]}},
        {"params": {"num_samples": 8}, **as_json(b"a")},
    ],
)
def test_a_malformed_batch_is_refused(serving: Coordinator, request_: dict[str, Any]) -> None:
    assert problem_of(ask(serving, **request_)) == "invalid_request"


def test_a_batch_has_two_forms_and_no_other(serving: Coordinator) -> None:
    response = ask(serving, content=b"one", headers={"Content-Type": "image/png"})
    assert problem_of(response) == "unsupported_media_type"


def test_a_batch_too_large_is_refused_before_it_is_read(serving: Coordinator) -> None:
    assert problem_of(ask(serving, **as_form(b"x" * 6000, b"x" * 6000))) == "body_too_large"


def test_a_batch_takes_a_place_like_any_other_request(serving: Coordinator) -> None:
    state = serving.http.app.state
    places = [state.predictions.admission.admitted() for _ in range(34)]
    for place in places:
        place.__enter__()
    response = ask(serving, **as_form(b"one"))
    assert problem_of(response) == "overloaded"
    assert int(response.headers["retry-after"]) >= 1
    places[0].__exit__(None, None, None)
    assert ask(serving, **as_form(b"one")).status_code == 200
