"""Conditional requests: an unchanged answer is not sent twice."""

from tests.server.harness import Coordinator


def test_an_unchanged_answer_is_304_and_a_changed_one_is_sent(coordinator: Coordinator) -> None:
    coordinator.federation()
    path = "/v1/federations/alpha"
    first = coordinator.admin.request("GET", path)
    tag = first.headers["etag"]
    assert first.json()["status"] == "active"
    for known in (tag, f'"other", W/{tag}'):
        again = coordinator.admin.request("GET", path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    coordinator.admin.post(f"{path}/pause")
    changed = coordinator.admin.request("GET", path, headers={"If-None-Match": tag})
    assert (changed.status_code, changed.json()["status"]) == (200, "paused")
    assert changed.headers["etag"] != tag


def test_a_tag_opens_no_door(coordinator: Coordinator) -> None:
    coordinator.federation()
    tag = coordinator.admin.request("GET", "/v1/federations/alpha").headers["etag"]
    answer = coordinator.anonymous().request("GET", "/v1/federations/alpha", headers={"If-None-Match": tag})
    assert answer.status_code == 401
    assert "etag" not in answer.headers


def test_files_keep_their_own_tag(coordinator: Coordinator) -> None:
    coordinator.federation()
    answer = coordinator.admin.request("GET", "/v1/federations/alpha/model-versions/0/parameters")
    assert answer.headers["etag"].startswith('"sha256:')
