"""Founding a federation without a browser: faults beside their fields, and nothing done before it is meant."""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.server.harness import ADMIN_TOKEN, Coordinator, running, settings_for
from tests.ui.test_pages import browser_of, csrf_of

from pfedbayespt.protocol import (
    BackboneSpecification,
    FederationSpecification,
    digest_of_bytes,
)
from pfedbayespt.server.ui import terms

DIGEST = digest_of_bytes(b"weights")
TYPED = {
    "name": "beta",
    "specification.classes": "a\r\n b \r\n\r\nc",
    "specification.backbone.architecture": "vit_tiny",
    "specification.backbone.weights_digest": DIGEST,
    "specification.backbone.image_size_pixels": "32",
}


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    with running(settings_for(tmp_path / "data", max_update_bytes=200_000)) as coordinator:
        yield coordinator


def send(browser: TestClient, step: str, **changes: str) -> Any:
    form = terms.at_first() | TYPED | {key.replace("__", "."): value for key, value in changes.items()}
    form |= {"csrf": csrf_of(browser), "step": step}
    return browser.post("/ui/create", data=form, follow_redirects=False)


def faults_in(text: str) -> dict[str, str]:
    """What the page says beside each field."""
    return {key: html.unescape(said) for key, said in re.findall(r'id="([\w.]+)-fault">([^<]+)<', text)}


def put(browser: TestClient, content: bytes, name: str = "beta", **changes: str) -> Any:
    files = {"file": ("version-0.safetensors", content, "application/octet-stream")}
    data = {"csrf": csrf_of(browser)} | changes
    path = f"/ui/federations/{name}/initial-parameters"
    return browser.post(path, data=data, files=files, follow_redirects=False)


def test_a_form_left_alone_agrees_on_what_the_messages_default_to() -> None:
    asked = terms.read(terms.at_first() | TYPED)
    backbone = BackboneSpecification(architecture="vit_tiny", weights_digest=DIGEST, image_size_pixels=32)
    assert asked.specification == FederationSpecification(classes=("a", "b", "c"), backbone=backbone)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("name", "Beta!", "Lower-case letters, digits and inner hyphens"),
        ("name", "", "Fill this in."),
        ("specification.classes", "a\na", "['a']"),
        ("specification.classes", "a", "Give more of them."),
        ("specification.backbone.weights_digest", "md5:1", "sha256sum"),
        ("specification.backbone.image_size_pixels", "8", "16"),
        ("specification.backbone.mean", "0.5, 0.5", "missing"),
        ("specification.training.local_epochs", "two", "Give a whole number."),
        ("specification.training.learning_rate", "", "Fill this in."),
        ("specification.head.cross_fit_folds", "1", "no image would be held out"),
        ("specification.head.grid_size", "17", "less than or equal to 16"),
        ("specification.training.head_rounds", "3", "goes with head.cross_fit_folds"),
        ("specification.rounds.min_sites_to_start", "1", "below quorum 2"),
        ("specification.rounds.cohort_size", "1", "below quorum 2"),
        ("specification.rounds.max_accuracy_drop", "1.5", "less than or equal to 1"),
    ],
)
def test_a_fault_stands_beside_its_field_and_what_was_typed_stays(
    coordinator: Coordinator, key: str, text: str, said: str
) -> None:
    answer = send(browser_of(coordinator), "review", **{key.replace(".", "__"): text})
    assert answer.status_code == 422
    assert list(faults_in(answer.text)) == [key]
    assert said in faults_in(answer.text)[key]
    assert f'aria-describedby="{key}-hint {key}-fault" aria-invalid="true"' in answer.text
    assert f'value="{DIGEST}"' in answer.text or key.endswith("digest")
    assert (f'value="{text}"' in answer.text) or (f">{text}</textarea>" in answer.text)


def test_a_head_in_closed_form_and_a_server_optimiser_are_a_fault_of_the_folds(
    coordinator: Coordinator,
) -> None:
    typed = {
        "specification__head__cross_fit_folds": "4",
        "specification__rounds__aggregation__rule": "fedadam",
    }
    faults = faults_in(send(browser_of(coordinator), "review", **typed).text)
    assert list(faults) == ["specification.head.cross_fit_folds"]
    assert "weighted_mean, not fedadam" in faults["specification.head.cross_fit_folds"]


def test_every_fault_is_said_at_once(coordinator: Coordinator) -> None:
    answer = send(browser_of(coordinator), "review", name="", specification__rounds__quorum="many")
    assert set(faults_in(answer.text)) == {"name", "specification.rounds.quorum"}
    assert answer.text.count('<li><a href="#') == 2


def test_nothing_is_created_before_it_is_meant_and_then_it_is_on_record(coordinator: Coordinator) -> None:
    browser = browser_of(coordinator)
    review = send(browser, "review", specification__rounds__quorum="1")
    assert review.status_code == 200
    assert coordinator.admin.get("/v1/federations")["items"] == []
    kept = dict(re.findall(r'<input type="hidden" name="([\w.]+)" value="([^"]*)">', review.text))
    assert kept["specification.rounds.quorum"] == "1"
    edited = send(browser, "edit", specification__rounds__quorum="1")
    assert '<input id="specification.rounds.quorum"' in edited.text
    assert coordinator.admin.get("/v1/federations")["items"] == []

    answer = browser.post("/ui/create", data=kept | {"step": "create"}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/federations/beta")
    made = coordinator.admin.get("/v1/federations/beta")
    assert (made["status"], made["specification"]["rounds"]["quorum"]) == ("draft", 1)
    assert made["specification_digest"] in review.text
    (event,) = coordinator.admin.get("/v1/federations/beta/events")["items"]
    assert (event["action"], event["actor"]) == ("federation.created", "admin")


@pytest.mark.parametrize("step", ["review", "create"])
def test_a_name_that_is_taken_is_a_fault_of_the_name(coordinator: Coordinator, step: str) -> None:
    coordinator.draft("beta")
    answer = send(browser_of(coordinator), step)
    assert answer.status_code == 409
    assert "already" in faults_in(answer.text)["name"]


def test_a_file_becomes_version_0_and_only_then_activating_is_offered(coordinator: Coordinator) -> None:
    coordinator.draft("beta")
    browser = browser_of(coordinator)
    draft = browser.get("/ui/federations/beta").text
    assert "/ui/federations/beta/initial-parameters" in draft
    assert "action=activate" not in draft
    answer = put(browser, coordinator.initial_file("beta"))
    assert (answer.status_code, answer.headers.get("location")) == (303, "/ui/federations/beta")
    assert coordinator.admin.get("/v1/federations/beta")["serving_version"] == 0
    assert "action=activate" in browser.get("/ui/federations/beta").text
    recorded = coordinator.admin.get("/v1/federations/beta/events")["items"]
    assert {"actor": "admin", "action": "model_version.promoted"}.items() <= recorded[-1].items()


def test_a_file_of_something_else_is_refused_with_the_reason(coordinator: Coordinator) -> None:
    browser = browser_of(coordinator)
    coordinator.draft("beta")
    coordinator.draft("gamma", quorum=1)
    for content, status, said in (
        (coordinator.initial_file("gamma"), 422, "federation is &#39;gamma&#39;"),
        (b"no tensors", 422, "not a parameters file"),
        (b"", 422, "choose the file first"),
    ):
        answer = put(browser, content)
        assert answer.status_code == status
        assert said in answer.text
        assert "Yes, put this file" in answer.text
    assert coordinator.versions("beta") == []
    assert put(browser, b"0" * 300_000).status_code == 413
    coordinator.put_initial("beta")
    other = coordinator.initial_file("beta")[:-4] + b"\x00\x00\x80\x3f"
    answer = put(browser, other)
    assert answer.status_code == 409
    assert "a version never changes" in answer.text
    assert len(coordinator.versions("beta")) == 1


def test_forms_from_elsewhere_found_nothing(coordinator: Coordinator) -> None:
    coordinator.draft("beta")
    stranger, browser = browser_of(coordinator, signed_in=False), browser_of(coordinator)
    content = coordinator.initial_file("beta")
    other = csrf_of(browser_of(coordinator))
    form = terms.at_first() | TYPED | {"name": "new", "step": "create"}
    assert browser.post("/ui/create", data=form | {"csrf": other}).status_code == 403
    assert browser.post("/ui/create", data=form).status_code == 403
    assert put(browser, content, csrf=other).status_code == 403
    for path in ("/ui/create", "/ui/federations/beta/initial-parameters"):
        answer = stranger.post(path, content=b"x" * 1000, follow_redirects=False)
        assert answer.headers["location"].startswith("/ui/sign-in")
    assert [each["name"] for each in coordinator.admin.get("/v1/federations")["items"]] == ["beta"]
    assert coordinator.versions("beta") == []
    assert ADMIN_TOKEN not in browser.get("/ui/create").text
