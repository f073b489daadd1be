"""Predictions over HTTP: three forms of one request, who may ask, and what happens at the door."""

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.server.harness import ADMIN_TOKEN, Coordinator, problem_of, running, settings_for

from pfedbayespt.protocol import ClassProbability, Prediction, PredictionRequest, Uncertainty, digest_of_bytes
from pfedbayespt.server.auth import AdminCaller, SiteCaller
from pfedbayespt.server.errors import NotFound
from pfedbayespt.server.predictions.admission import Admission
from pfedbayespt.server.predictions.predictor import Answer, ServableVersion
from pfedbayespt.server.predictions.service import version_to_answer

PATH = "/v1/federations/alpha/predictions"
IMAGE = b"not really an image"
FORMS: dict[str, dict[str, Any]] = {
    "raw": {"content": IMAGE, "headers": {"Content-Type": "image/png"}},
    "form": {"files": {"image": ("scan.png", IMAGE, "image/png")}},
    "json": {"json": {"image": base64.b64encode(IMAGE).decode()}},
}


class EchoPredictor:
    """Answers with what it was asked, without looking at the image."""

    def __init__(self) -> None:
        self.asked: list[PredictionRequest] = []

    def check_available(self) -> None:
        """Return."""

    def prepare(self, version: ServableVersion) -> None:
        """Return."""

    def predict(
        self, version: ServableVersion, request: PredictionRequest, site_id: str | None = None
    ) -> Answer:
        self.asked.append(request)
        prediction = Prediction(
            federation=version.federation,
            label=version.specification.classes[0],
            probabilities=(ClassProbability(label=version.specification.classes[0], probability=1.0),),
            uncertainty=Uncertainty(**dict.fromkeys(Uncertainty.model_fields, 0.0)),
            model_version=version.number,
            model_digest=version.digest,
            num_samples=request.num_samples,
            seed=request.seed or 0,
            image_digest=digest_of_bytes(request.image),
        )
        return Answer(prediction, {"decode": 0.0012, "sample": 0.25})


@pytest.fixture
def echo() -> EchoPredictor:
    return EchoPredictor()


@pytest.fixture
def serving(tmp_path: Path, echo: EchoPredictor) -> Iterator[Coordinator]:
    """A coordinator with a federation whose version 0 serves, answered by the echo."""
    with running(settings_for(tmp_path / "data", max_image_bytes=1000)) as coordinator:
        state = coordinator.http.app.state
        state.predictions = replace(state.predictions, predictor=echo)
        coordinator.federation()
        yield coordinator


def ask(coordinator: Coordinator, **options: Any) -> httpx.Response:
    return coordinator.admin.request("POST", options.pop("path", PATH), **options)


def refused(response: httpx.Response, status: int, kind: str) -> str:
    assert (response.status_code, problem_of(response)) == (status, kind), response.text
    return str(response.json()["detail"])


# The forms


@pytest.mark.parametrize("form", FORMS)
def test_every_form_carries_the_image_and_is_answered_alike(serving: Coordinator, form: str) -> None:
    response = ask(serving, **FORMS[form])
    assert response.status_code == 200, response.text
    prediction = Prediction.model_validate_json(response.content)
    assert prediction.image_digest == digest_of_bytes(IMAGE)
    assert (prediction.federation, prediction.model_version, prediction.num_samples) == ("alpha", 0, 16)
    assert prediction.model_digest == serving.versions()[0]["digest"]
    assert response.content == prediction.model_dump_json().encode()


@pytest.mark.parametrize("form", FORMS)
def test_options_are_fields_in_json_and_query_parameters_elsewhere(
    serving: Coordinator, echo: EchoPredictor, form: str
) -> None:
    options = {"num_samples": 8, "top_k": 2, "seed": 2**64 - 1, "model_version": 0}
    request = dict(FORMS[form])
    if form == "json":
        request["json"] = request["json"] | options
    else:
        request["params"] = options
    assert ask(serving, **request).status_code == 200
    assert echo.asked == [PredictionRequest(image=IMAGE, **options)]


@pytest.mark.parametrize("media_type", ["image/jpeg", "IMAGE/WEBP", "image/png; charset=binary"])
def test_the_media_type_of_an_image_is_read_as_http_means_it(serving: Coordinator, media_type: str) -> None:
    assert ask(serving, content=IMAGE, headers={"Content-Type": media_type}).status_code == 200


def test_durations_are_told_in_a_header_of_their_own(serving: Coordinator) -> None:
    response = ask(serving, **FORMS["raw"])
    queue, decode, sample = response.headers["server-timing"].split(", ")
    assert queue.startswith("queue;dur=")
    assert (decode, sample) == ("decode;dur=1.2", "sample;dur=250.0")


def test_an_empty_body_is_an_image_of_no_bytes(serving: Coordinator, echo: EchoPredictor) -> None:
    assert ask(serving, content=b"", headers={"Content-Type": "image/png"}).status_code == 200
    assert echo.asked[0].image == b""


# What is malformed


@pytest.mark.parametrize(
    "media_type", ["", "image/gif", "image/*", "text/plain", "application/x-www-form-urlencoded"]
)
def test_another_media_type_is_refused_naming_those_allowed(serving: Coordinator, media_type: str) -> None:
    response = ask(serving, content=IMAGE, headers={"Content-Type": media_type})
    detail = refused(response, 415, "unsupported_media_type")
    for allowed in ("image/jpeg", "image/png", "image/webp", "application/json", "multipart/form-data"):
        assert allowed in detail


@pytest.mark.parametrize(
    "params",
    [
        {"num_samples": 0},
        {"num_samples": 257},
        {"num_samples": "many"},
        {"top_k": 0},
        {"seed": -1},
        {"seed": 2**64},
        {"model_version": -1},
        {"model_version": 2**31},
        {"num_sample": 8},
        {"image": "https://example.org/x.png"},
    ],
)
def test_an_option_out_of_range_or_unknown_is_refused_by_name(
    serving: Coordinator, params: dict[str, Any]
) -> None:
    (name,) = params
    assert name in refused(ask(serving, params=params, **FORMS["raw"]), 422, "invalid_request")
    body = FORMS["json"]["json"] | params
    assert name in refused(ask(serving, json=body), 422, "invalid_request")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b"{}",
        b'{"image": 5}',
        b'{"image": null}',
        b'{"image": "!"}',
        b"[" * 900,
        b"\xff",
    ],
)
def test_malformed_json_is_refused_without_repeating_it(serving: Coordinator, body: bytes) -> None:
    response = ask(serving, content=body, headers={"Content-Type": "application/json"})
    refused(response, 422, "invalid_request")
    assert len(response.content) < 2000


def test_query_parameters_beside_json_are_refused(serving: Coordinator) -> None:
    response = ask(serving, params={"num_samples": 8}, **FORMS["json"])
    assert "send no query parameters" in refused(response, 422, "invalid_request")


BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\nbytes\r\n'
FIELD = PART.replace(b'; filename="x"', b"")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"files": {"picture": ("x", IMAGE)}}, id="another name"),
        pytest.param({"files": [("image", ("x", IMAGE)), ("image", ("y", IMAGE))]}, id="two files"),
        pytest.param({"files": {"image": ("x", IMAGE)}, "data": {"num_samples": "8"}}, id="a field too"),
        pytest.param(
            {"content": PART.replace(b'; filename="x"', b"") + b"--b--", "headers": BOUNDARY}, id="no file"
        ),
        pytest.param({"content": b"", "headers": BOUNDARY}, id="empty"),
        pytest.param({"content": b"nonsense", "headers": BOUNDARY}, id="nonsense"),
        pytest.param({"content": PART + b"--c--", "headers": BOUNDARY}, id="no end"),
        pytest.param(
            {"content": PART.replace(b"name", b"eman") + b"--b--", "headers": BOUNDARY}, id="no name"
        ),
        pytest.param(
            {"content": PART + b"--b--", "headers": {"Content-Type": "multipart/form-data"}}, id="no boundary"
        ),
    ],
)
def test_a_malformed_form_is_refused_naming_the_part_it_needs(
    serving: Coordinator, options: dict[str, Any]
) -> None:
    assert "image" in refused(ask(serving, **options), 422, "invalid_request")


@pytest.mark.parametrize("form", FORMS)
def test_an_image_file_too_large_is_refused_in_every_form(serving: Coordinator, form: str) -> None:
    for num_bytes in (1001, 200_000):
        large = b"x" * num_bytes
        request: dict[str, Any] = {
            "raw": {"content": large, "headers": {"Content-Type": "image/png"}},
            "form": {"files": {"image": ("x", large)}},
            "json": {"json": {"image": base64.b64encode(large).decode()}},
        }[form]
        assert "allowed: " in refused(ask(serving, **request), 413, "body_too_large")


@pytest.mark.parametrize("form", FORMS)
def test_the_largest_image_passes_in_every_form(serving: Coordinator, form: str) -> None:
    largest = b"x" * 1000
    request: dict[str, Any] = {
        "raw": {"content": largest, "headers": {"Content-Type": "image/png"}},
        "form": {"files": {"image": ("x", largest)}},
        "json": {"json": {"image": base64.b64encode(largest).decode()}},
    }[form]
    assert ask(serving, **request).status_code == 200


# Who may ask, and about what


def test_the_federations_sites_may_ask(serving: Coordinator) -> None:
    site = serving.enrol("alpha")
    assert site.request("POST", PATH, **FORMS["raw"]).status_code == 200


def test_nobody_without_a_credential_may_ask(serving: Coordinator) -> None:
    response = serving.anonymous().request("POST", PATH, **FORMS["raw"])
    refused(response, 401, "authentication_required")


def test_a_site_of_another_federation_is_told_that_there_is_none(serving: Coordinator) -> None:
    serving.federation("beta")
    stranger = serving.enrol("beta", "stranger")
    refused(stranger.request("POST", PATH, **FORMS["raw"]), 404, "not_found")


def test_the_lookup_of_a_version_guards_itself(serving: Coordinator) -> None:
    stranger = SiteCaller(
        "sit_1", "stranger", federation_id="fed_other", federation="other", key_id="key_1", organisation="x"
    )
    with serving.context.database.read() as tx:
        assert version_to_answer(tx, AdminCaller(), "alpha", None).number == 0
        with pytest.raises(NotFound, match="no federation 'alpha'"):
            version_to_answer(tx, stranger, "alpha", None)


def test_an_unknown_federation_or_version_is_not_found(serving: Coordinator) -> None:
    refused(ask(serving, path="/v1/federations/omega/predictions", **FORMS["raw"]), 404, "not_found")
    detail = refused(ask(serving, params={"model_version": 7}, **FORMS["raw"]), 404, "not_found")
    assert "version 7" in detail


def test_a_draft_has_no_version_that_serves(serving: Coordinator) -> None:
    serving.draft("gamma")
    response = ask(serving, path="/v1/federations/gamma/predictions", **FORMS["raw"])
    refused(response, 409, "no_serving_version")


def test_a_coordinator_without_inference_says_so_before_it_reads_the_body(tmp_path: Path) -> None:
    with running(settings_for(tmp_path / "data")) as coordinator:
        coordinator.federation()
        response = ask(coordinator, content=IMAGE, headers={"Content-Type": "text/plain"})
        assert "roles include `inference`" in refused(response, 503, "inference_unavailable")


def test_images_leave_no_trace(
    serving: Coordinator, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = serving.dump(), sorted(path for path in tmp_path.rglob("*") if "blobs" in path.parts)
    for form in FORMS.values():
        ask(serving, **form)
    after = serving.dump(), sorted(path for path in tmp_path.rglob("*") if "blobs" in path.parts)
    assert after == before
    assert IMAGE.decode() not in "".join(capfd.readouterr())


# At the door


def test_a_full_house_refuses_at_once_and_says_when_to_come_back(serving: Coordinator) -> None:
    state = serving.http.app.state
    state.predictions = replace(state.predictions, admission=Admission(max_running=1, max_waiting=0))
    with state.predictions.admission.admitted():
        response = ask(serving, **FORMS["raw"])
    assert "1 predictions are under way" in refused(response, 503, "overloaded")
    assert int(response.headers["retry-after"]) >= 1
    assert ask(serving, **FORMS["raw"]).status_code == 200


@pytest.mark.parametrize("path", [PATH, f"{PATH}/batch", "/v2/models/alpha/infer"])
def test_a_full_house_looks_nothing_up_for_whom_it_refuses(serving: Coordinator, path: str) -> None:
    """Whoever calls with no credential is refused as one of too many, not as unknown."""
    state = serving.http.app.state
    admission = Admission(max_running=1, max_waiting=0)
    state.predictions = replace(state.predictions, admission=admission)
    stranger = {"Content-Type": "image/png"}
    assert serving.http.post(path, content=IMAGE, headers=stranger).status_code == 401
    with admission.admitted():
        response = serving.http.post(path, content=IMAGE, headers=stranger)
    assert "1 predictions are under way" in refused(response, 503, "overloaded")
    assert int(response.headers["retry-after"]) >= 1


def test_a_caller_over_its_quota_is_told_so_and_when_to_come_back(serving: Coordinator) -> None:
    state = serving.http.app.state
    site = serving.enrol("alpha")
    state.predictions = replace(state.predictions, admission=Admission(1, 3, max_per_caller=1))
    with state.predictions.admission.admitted("admin"):
        response = ask(serving, **FORMS["raw"])
        assert site.request("POST", PATH, **FORMS["raw"]).status_code == 200
    assert "allowed: 1" in refused(response, 429, "quota_exceeded")
    assert int(response.headers["retry-after"]) >= 1
    assert ask(serving, **FORMS["raw"]).status_code == 200


def test_refused_requests_give_their_place_back(serving: Coordinator) -> None:
    state = serving.http.app.state
    state.predictions = replace(state.predictions, admission=Admission(max_running=1, max_waiting=0))
    for _ in range(3):
        refused(
            ask(serving, content=b"", headers={"Content-Type": "text/plain"}), 415, "unsupported_media_type"
        )
    assert ask(serving, **FORMS["raw"]).status_code == 200


class CountingPredictor(EchoPredictor):
    """Answers once two run at a time and another request was turned away, and leaves time for a third to run."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.two_run, self.three_run, self.one_refused = (threading.Event() for _ in range(3))
        self.running = self.most = 0

    def predict(
        self, version: ServableVersion, request: PredictionRequest, site_id: str | None = None
    ) -> Answer:
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
            if self.running >= 2:
                self.two_run.set()
            if self.running >= 3:
                self.three_run.set()
        assert self.two_run.wait(timeout=60)
        assert self.one_refused.wait(timeout=60)
        assert not self.three_run.wait(timeout=0.2)
        with self.lock:
            self.running -= 1
        return super().predict(version, request)


def test_a_crowd_is_served_or_turned_away_and_never_more_run_than_may(serving: Coordinator) -> None:
    predictor = CountingPredictor()
    state = serving.http.app.state
    state.predictions = replace(state.predictions, predictor=predictor, admission=Admission(2, 3))

    async def ask_once(client: httpx.AsyncClient) -> int:
        status = (await client.post(PATH, content=IMAGE)).status_code
        if status == 503:
            predictor.one_refused.set()
        return status

    async def crowd() -> list[int]:
        transport = httpx.ASGITransport(serving.http.app)
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}", "Content-Type": "image/png"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://coordinator", headers=headers
        ) as client:
            return await asyncio.gather(*[ask_once(client) for _ in range(12)])

    statuses = asyncio.run(crowd())
    assert set(statuses) == {200, 503}
    assert statuses.count(200) == len(predictor.asked) >= 5
    assert predictor.most == 2


# Its documentation


def test_the_documentation_shows_every_form_and_every_problem(serving: Coordinator) -> None:
    operation = serving.http.get("/openapi.json").json()["paths"]["/v1/federations/{name}/predictions"][
        "post"
    ]
    assert set(operation["requestBody"]["content"]) == {
        "image/jpeg", "image/png", "image/webp", "multipart/form-data", "application/json",
    }  # fmt: skip
    assert {"200", "401", "404", "408", "409", "413", "415", "422", "429", "503"} <= set(
        operation["responses"]
    )
    assert {parameter["name"] for parameter in operation["parameters"]} == {
        "name", "num_samples", "top_k", "seed", "model_version", "class_prior", "return_samples",
        "X-Timeout-Seconds",
        "X-Sticky-Key",
    }  # fmt: skip
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert Prediction.model_validate_json(json.dumps(example)).federation == "skin-lesions"
