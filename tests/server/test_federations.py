"""Creating a federation, giving it parameters, and its states."""

import base64
import json
from typing import Any

import numpy as np
import pytest
from tests.server.harness import Coordinator, check, initial_arrays, problem_of, specification

from pfedbayespt.protocol import ParametersManifest, digest_of_bytes, digest_of_message, tensors


def test_a_new_federation_is_a_draft_with_the_digest_of_its_specification(coordinator: Coordinator) -> None:
    coordinator.draft("alpha", num_rounds=3)
    federation = coordinator.admin.get("/v1/federations/alpha")
    assert federation["status"] == "draft"
    assert federation["serving_version"] is None
    assert federation["specification_digest"] == digest_of_message(specification(num_rounds=3))


def test_a_name_is_given_once(coordinator: Coordinator) -> None:
    coordinator.draft("alpha")
    before = coordinator.dump()
    body = {"name": "alpha", "specification": specification(num_rounds=9).model_dump(mode="json")}
    assert problem_of(coordinator.admin.request("POST", "/v1/federations", json=body)) == "already_exists"
    assert coordinator.dump() == before


@pytest.mark.parametrize(
    "policy",
    [
        {"quorum": 3, "min_sites_to_start": 2},
        {"quorum": 3, "min_sites_to_start": 3, "cohort_size": 2},
        {"max_accuracy_drop": 0.1, "evaluate": False},
        {"deadline_seconds": 0},
        {"quorum": 0},
        {"late_policy": "buffer"},
    ],
)
def test_a_policy_that_cannot_work_is_refused(coordinator: Coordinator, policy: dict[str, Any]) -> None:
    plain = specification().model_dump(mode="json")
    plain["rounds"] |= policy
    body = {"name": "alpha", "specification": plain}
    assert problem_of(coordinator.admin.request("POST", "/v1/federations", json=body)) == "invalid_request"
    assert coordinator.dump()["federations"] == []


def test_initial_parameters_become_version_zero_which_serves(coordinator: Coordinator) -> None:
    coordinator.draft()
    content = coordinator.initial_file("alpha")
    version = coordinator.put_initial("alpha")
    assert (version["version_number"], version["status"]) == (0, "serving")
    assert version["digest"] == digest_of_bytes(content)
    assert (version["parent_version"], version["inputs"]) == (None, [])
    assert coordinator.admin.get("/v1/federations/alpha")["serving_version"] == 0


def test_the_same_initial_parameters_again_are_fine_and_others_are_not(coordinator: Coordinator) -> None:
    coordinator.draft()
    version = coordinator.put_initial("alpha")
    path, content = "/v1/federations/alpha/initial-parameters", coordinator.initial_file("alpha")
    before = coordinator.dump()
    assert check(coordinator.admin.put_file(path, content), 200) == version
    other = parameters(coordinator, {"head.bias": np.ones(3, np.float32)})
    assert problem_of(coordinator.admin.put_file(path, other)) == "already_exists"
    assert coordinator.dump() == before


def parameters(coordinator: Coordinator, arrays: dict[str, Any], **manifest: Any) -> bytes:
    facts = {
        "federation": "alpha",
        "specification_digest": coordinator.admin.get("/v1/federations/alpha")["specification_digest"],
        "version_number": 0,
    }
    return tensors.encode(arrays, ParametersManifest(**(facts | manifest)))


@pytest.mark.parametrize(
    "manifest",
    [
        {"federation": "beta"},
        {"version_number": 1},
        {"specification_digest": digest_of_bytes(b"other")},
        {"parent_digest": digest_of_bytes(b"parent")},
        {"inputs_digest": digest_of_bytes(b"inputs")},
    ],
)
def test_initial_parameters_of_something_else_are_rejected(
    coordinator: Coordinator, manifest: dict[str, Any]
) -> None:
    coordinator.draft()
    before = coordinator.dump()
    content = parameters(coordinator, initial_arrays(), **manifest)
    response = coordinator.admin.put_file("/v1/federations/alpha/initial-parameters", content)
    assert (response.status_code, problem_of(response)) == (422, "parameters_rejected")
    assert next(iter(manifest)) in response.json()["detail"]
    assert coordinator.dump() == before


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100)])
def test_initial_parameters_that_are_no_tensor_file_are_rejected(
    coordinator: Coordinator, content: bytes
) -> None:
    coordinator.draft()
    response = coordinator.admin.put_file("/v1/federations/alpha/initial-parameters", content)
    assert problem_of(response) == "parameters_rejected"


def test_initial_parameters_that_are_not_finite_are_rejected(coordinator: Coordinator) -> None:
    coordinator.draft()
    content = bytearray(coordinator.initial_file("alpha"))
    content[-4:] = np.float32("inf").tobytes()
    response = coordinator.admin.put_file("/v1/federations/alpha/initial-parameters", bytes(content))
    assert problem_of(response) == "parameters_rejected"


def test_a_federation_without_initial_parameters_cannot_be_activated(coordinator: Coordinator) -> None:
    coordinator.draft()
    response = coordinator.admin.request("POST", "/v1/federations/alpha/activate")
    assert problem_of(response) == "transition_not_allowed"
    assert "initial-parameters" in response.json()["detail"]


@pytest.mark.parametrize(
    ("verbs", "forbidden"),
    [
        ([], ["pause", "resume", "archive"]),
        (["activate"], ["activate", "resume"]),
        (["activate", "pause"], ["activate", "pause"]),
        (["activate", "archive"], ["activate", "pause", "resume", "archive"]),
    ],
)
def test_what_the_state_does_not_allow_is_refused_and_changes_nothing(
    coordinator: Coordinator, verbs: list[str], forbidden: list[str]
) -> None:
    coordinator.draft()
    coordinator.put_initial("alpha")
    for verb in verbs:
        coordinator.admin.post(f"/v1/federations/alpha/{verb}")
    before = coordinator.dump()
    for verb in forbidden:
        response = coordinator.admin.request("POST", f"/v1/federations/alpha/{verb}")
        assert problem_of(response) == "transition_not_allowed"
    assert coordinator.dump() == before


def test_a_file_comes_back_as_it_was_put_with_its_digest(coordinator: Coordinator) -> None:
    coordinator.federation()
    content = coordinator.initial_file("alpha")
    path = "/v1/federations/alpha/model-versions/0/parameters"
    response = coordinator.admin.request("GET", path)
    assert response.content == content
    assert response.headers["content-type"] == "application/vnd.safetensors"
    assert response.headers["etag"] == f'"{digest_of_bytes(content)}"'
    assert response.headers["content-digest"].startswith("sha-256=:")
    unchanged = coordinator.admin.request("GET", path, headers={"If-None-Match": response.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")


@pytest.mark.parametrize("number", ["1", "-1", "x", "99999999999999999999"])
def test_a_version_that_is_not_there_is_a_problem(coordinator: Coordinator, number: str) -> None:
    coordinator.federation()
    for suffix in ("", "/parameters"):
        response = coordinator.admin.request("GET", f"/v1/federations/alpha/model-versions/{number}{suffix}")
        assert problem_of(response) in {"not_found", "invalid_request"}


def test_a_list_of_federations_comes_in_pages_without_gaps(coordinator: Coordinator) -> None:
    names = [coordinator.draft(f"federation-{number}") for number in range(7)]
    seen, cursor = [], None
    while True:
        query = "?limit=3" + (f"&cursor={cursor}" if cursor else "")
        page = coordinator.admin.get(f"/v1/federations{query}")
        seen += [federation["name"] for federation in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == names


def cursor_of(*key: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


BAD_KEYS = [
    ("2026-01-01T00:00:00", "fed_1"),
    ("2026-01-01T00:00:00+00:00", "a\0b"),
    ("yesterday", "fed_1"),
    (10**30, "fed_1"),
    (None, None),
]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=201", "limit=x", "cursor=nonsense", "cursor=W10=", "cursor=WzEsMl0="]
    + [f"cursor={cursor_of(*key)}" for key in BAD_KEYS],
)
def test_a_bad_page_request_is_refused(coordinator: Coordinator, query: str) -> None:
    response = coordinator.admin.request("GET", f"/v1/federations?{query}")
    assert problem_of(response) == "invalid_request"


def test_rounds_versions_and_events_come_in_pages_too(coordinator: Coordinator) -> None:
    coordinator.federation(num_rounds=2, min_sites_to_start=2, quorum=2, evaluate=False)
    sites = coordinator.sites(2)
    coordinator.publish_statistics(sites)
    for _ in range(2):
        for site in sites:
            site.train()
        coordinator.settle()
    for resource, key, newest_first in (
        ("rounds", "round_number", True),
        ("model-versions", "version_number", True),
        ("events", "event_id", False),
    ):
        path = f"/v1/federations/alpha/{resource}"
        whole = [item[key] for item in coordinator.admin.get(f"{path}?limit=200")["items"]]
        assert whole == sorted(whole, reverse=newest_first)
        page = coordinator.admin.get(f"{path}?limit=2")
        rest = coordinator.admin.get(f"{path}?limit=200&cursor={page['next_cursor']}")
        assert [item[key] for item in page["items"] + rest["items"]] == whole
        assert rest["next_cursor"] is None
