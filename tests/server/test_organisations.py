"""Organisations: where they take part, and that none sees what is another's (promise P5)."""

from tests.server.harness import Caller, Coordinator, problem_of

TOKENS = "/v1/federations/alpha/enrolment-tokens"


def org_admin(coordinator: Coordinator, organisation: str = "clinic", federation: str = "alpha") -> Caller:
    body = {"organisation": organisation, "name": "it-department", "role": "org_admin"}
    made = coordinator.admin.post(f"/v1/federations/{federation}/api-keys", body, status=201)
    return Caller(coordinator.http, made["key"])


def names(page: dict[str, list[dict[str, str]]]) -> list[str]:
    return [item["name"] for item in page["items"]]


def test_the_first_token_for_an_organisation_makes_it_a_member_once(coordinator: Coordinator) -> None:
    for federation in ("alpha", "beta"):
        coordinator.federation(federation)
        for _ in range(2):
            coordinator.token(federation, organisation="clinic")
    (clinic,) = coordinator.admin.get("/v1/organisations")["items"]
    assert (clinic["name"], clinic["federations"]) == ("clinic", ["alpha", "beta"])
    events = coordinator.admin.get("/v1/federations/alpha/events")["items"]
    assert [event["subject"] for event in events if event["action"] == "organisation.joined"] == ["clinic"]


def test_an_organisation_is_made_known_once(coordinator: Coordinator) -> None:
    made = coordinator.admin.post("/v1/organisations", {"name": "clinic"}, status=201)
    assert made == coordinator.admin.get("/v1/organisations/clinic")
    assert made["federations"] == []
    again = coordinator.admin.request("POST", "/v1/organisations", json={"name": "clinic"})
    assert problem_of(again) == "already_exists"
    coordinator.federation()
    coordinator.token("alpha", organisation="clinic")
    assert coordinator.admin.get("/v1/organisations/clinic")["federations"] == ["alpha"]


def test_an_organisations_admin_sees_what_is_its_own_and_nothing_else(coordinator: Coordinator) -> None:
    coordinator.federation("alpha")
    coordinator.federation("beta")
    own = coordinator.enrol(name="own", organisation="clinic")
    others = [
        coordinator.enrol(name="other", organisation="hospital"),
        coordinator.enrol(
            "beta", "elsewhere", "clinic"
        ),  # of the same organisation, where the key is not good
    ]
    caller = org_admin(coordinator)
    assert [site["site_name"] for site in caller.get("/v1/federations/alpha/sites")["items"]] == ["own"]
    assert names(caller.get("/v1/federations/alpha/organisations")) == ["clinic"]
    assert caller.get("/v1/organisations/clinic")["federations"] == ["alpha"]
    for path in ("/v1/organisations/hospital", "/v1/federations/beta/sites", "/v1/federations/beta"):
        assert problem_of(caller.request("GET", path)) == "not_found"
    for site in others:
        assert problem_of(caller.request("POST", f"/v1/sites/{site.site_id}/revoke")) == "not_found"
        assert site.get("/v1/sites/me")["status"] == "active"
    assert caller.post(f"/v1/sites/{own.site_id}/revoke")["status"] == "revoked"
    assert problem_of(own.request("GET", "/v1/sites/me")) == "authentication_required"


def test_an_organisations_admin_invites_for_its_own_organisation_alone(coordinator: Coordinator) -> None:
    coordinator.federation()
    coordinator.token("alpha", organisation="hospital")
    caller = org_admin(coordinator)
    assert caller.post(TOKENS, {"organisation": "clinic"}, status=201)["organisation"] == "clinic"
    before = coordinator.dump()
    for organisation in ("hospital", "never-heard-of"):
        refused = caller.request("POST", TOKENS, json={"organisation": organisation})
        assert problem_of(refused) == "not_found"
    assert coordinator.dump() == before


def test_a_site_sees_evaluations_of_its_own_organisation_alone(coordinator: Coordinator) -> None:
    coordinator.federation(min_sites_to_start=2, quorum=2, num_rounds=2)
    sites = [
        coordinator.enrol(name=name, organisation=organisation)
        for name, organisation in (("one", "clinic"), ("two", "clinic"), ("three", "hospital"))
    ]
    coordinator.publish_statistics(sites)
    for site in sites:
        site.train()
    coordinator.settle()
    for number, site in enumerate(sites):
        site.evaluate(0.5 + number / 10)
    path = "/v1/federations/alpha/model-versions"

    def reporters(caller: Caller) -> list[set[str]]:
        versions = caller.get(path)["items"][0], caller.get(f"{path}/2")
        return [{report["site_name"] for report in version["evaluations"]} for version in versions]

    assert reporters(sites[0]) == [{"one", "two"}] * 2
    assert reporters(sites[2]) == [{"three"}] * 2
    assert reporters(coordinator.admin) == [{"one", "two", "three"}] * 2
