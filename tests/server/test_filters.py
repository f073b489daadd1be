"""Lists narrowed to what is looked for."""

import pytest
from tests.server.harness import Coordinator, problem_of


@pytest.fixture
def busy(coordinator: Coordinator) -> Coordinator:
    """A federation with one round published, one collecting, a suspended site and a quarantined update."""
    coordinator.federation(min_sites_to_start=2, quorum=2, num_rounds=4, evaluate=False)
    sites = [
        coordinator.enrol(name=f"site-{number}", organisation=organisation)
        for number, organisation in enumerate(("clinic", "clinic", "bank"))
    ]
    coordinator.settle()
    for site in sites:
        site.train()
    coordinator.settle()
    coordinator.admin.post(f"/v1/sites/{sites[2].site_id}/suspend")
    coordinator.draft("beta")
    return coordinator


def listed(coordinator: Coordinator, path: str, field: str) -> list[object]:
    return [item[field] for item in coordinator.admin.get(path)["items"]]


@pytest.mark.parametrize(
    ("path", "field", "expected"),
    [
        ("/v1/federations?status=draft", "name", ["beta"]),
        ("/v1/federations?status=archived", "name", []),
        ("/v1/federations/alpha/rounds?status=published", "round_number", [1]),
        ("/v1/federations/alpha/rounds?status=collecting", "round_number", [2]),
        ("/v1/federations/alpha/model-versions?status=serving", "version_number", [1]),
        ("/v1/federations/alpha/sites?status=suspended", "site_name", ["site-2"]),
        ("/v1/federations/alpha/sites?organisation=clinic", "site_name", ["site-0", "site-1"]),
        ("/v1/federations/alpha/sites?organisation=clinic&status=suspended", "site_name", []),
        ("/v1/federations/alpha/events?action=site.suspended", "action", ["site.suspended"]),
        ("/v1/federations/alpha/events?actor=worker&action=round.published", "actor", ["worker"]),
    ],
)
def test_a_list_is_narrowed_to_what_is_asked_for(
    busy: Coordinator, path: str, field: str, expected: list[object]
) -> None:
    assert listed(busy, path, field) == expected


def test_updates_of_one_status_are_listed(busy: Coordinator) -> None:
    (published,) = busy.admin.get("/v1/federations/alpha/rounds?status=published")["items"]
    path = f"/v1/rounds/{published['round_id']}/updates"
    everything = listed(busy, path, "status")
    assert len(everything) == 3
    assert listed(busy, f"{path}?status=aggregated", "status") == everything
    assert listed(busy, f"{path}?status=quarantined", "status") == []


def test_a_filter_and_the_pages_go_together(busy: Coordinator) -> None:
    path = "/v1/federations/alpha/sites?organisation=clinic&limit=1"
    first = busy.admin.get(path)
    second = busy.admin.get(f"{path}&cursor={first['next_cursor']}")
    assert [page["items"][0]["site_name"] for page in (first, second)] == ["site-0", "site-1"]
    assert second["next_cursor"] is None


def test_events_of_one_object_and_from_one_time_on_are_listed(busy: Coordinator) -> None:
    everything = busy.admin.get("/v1/federations/alpha/events?limit=200")["items"]
    subject = everything[-1]["subject"]
    about = busy.admin.get(f"/v1/federations/alpha/events?subject={subject}&limit=200")["items"]
    assert about == [event for event in everything if event["subject"] == subject]

    busy.clock.move(3600)
    busy.admin.post("/v1/federations/alpha/pause")
    paused = busy.admin.get("/v1/federations/alpha/events?action=federation.paused")["items"][0]
    query = {"since": paused["occurred_at"], "limit": 200}
    later = busy.admin.request("GET", "/v1/federations/alpha/events", params=query).json()["items"]
    assert later[0]["event_id"] > everything[-1]["event_id"]
    assert paused in later


@pytest.mark.parametrize(
    "path",
    [
        "/v1/federations?status=asleep",
        "/v1/federations/alpha/rounds?status=draft",
        "/v1/federations/alpha/events?since=yesterday",
        "/v1/federations/alpha/events?since=2026-11-22T12:00:00",
    ],
)
def test_a_value_that_no_item_could_have_is_refused(busy: Coordinator, path: str) -> None:
    assert problem_of(busy.admin.request("GET", path)) == "invalid_request"
