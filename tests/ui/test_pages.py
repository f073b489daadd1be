"""The pages without a browser: what they show without scripts, who gets in, and what a form may do."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tests.server.harness import ADMIN_TOKEN, Coordinator, running, settings_for
from tests.ui.scenery import furnish

from pfedbayespt.protocol import SigningKey
from pfedbayespt.server.ui.session import COOKIE, SESSION_SECONDS

PAGES = (
    "",
    "/rounds/4",
    "/rounds/5",
    "/versions",
    "/versions/4",
    "/sites",
    "/try",
    "/events",
    "/initial-parameters",
)
READ = ["/ui/federations", "/ui/create", *(f"/ui/federations/alpha{page}" for page in PAGES)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """For tests that only read."""
    with running(settings_for(tmp_path_factory.mktemp("pages"))) as coordinator:
        furnish(coordinator)
        yield coordinator


def browser_of(coordinator: Coordinator, *, signed_in: bool = True) -> TestClient:
    """A browser's part: cookies of its own."""
    browser = TestClient(coordinator.http.app, raise_server_exceptions=False)
    if signed_in:
        answer = browser.post("/ui/sign-in", data={"token": ADMIN_TOKEN}, follow_redirects=False)
        assert answer.status_code == 303, answer.text
    return browser


def csrf_of(browser: TestClient) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', browser.get("/ui/federations").text)
    assert found
    return found[1]


def events_of(coordinator: Coordinator, action: str) -> list[Any]:
    page = coordinator.admin.get("/v1/federations/alpha/events?limit=200")
    return [event for event in page["items"] if event["action"] == action]


@pytest.mark.parametrize("path", READ)
def test_nobody_sees_a_page_without_signing_in(shared: Coordinator, path: str) -> None:
    answer = browser_of(shared, signed_in=False).get(path, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/ui/sign-in?next={path}")


def test_a_stream_and_an_action_ask_for_a_session_too(shared: Coordinator) -> None:
    stranger = browser_of(shared, signed_in=False)
    assert stranger.get("/ui/federations/alpha/stream", follow_redirects=False).status_code == 303
    form = {"action": "pause", "target": "alpha", "csrf": "0" * 64}
    answer = stranger.post("/ui/federations/alpha/actions", data=form, follow_redirects=False)
    assert answer.headers["location"].startswith("/ui/sign-in")
    assert shared.admin.get("/v1/federations/alpha")["status"] == "active"


def test_a_wrong_token_and_a_site_s_token_do_not_sign_in(shared: Coordinator) -> None:
    stranger = browser_of(shared, signed_in=False)
    for token in ("wrong", "x" * 40, shared.enrol("alpha", "curious").credential):
        answer = stranger.post("/ui/sign-in", data={"token": token}, follow_redirects=False)
        assert answer.status_code == 401
        assert COOKIE not in answer.cookies


def test_the_session_s_cookie_is_for_this_site_alone_and_short_lived(shared: Coordinator) -> None:
    stranger = browser_of(shared, signed_in=False)
    answer = stranger.post("/ui/sign-in", data={"token": ADMIN_TOKEN}, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=strict", "Path=/ui", f"Max-Age={SESSION_SECONDS}"):
        assert part in cookie
    assert ADMIN_TOKEN not in cookie
    behind_https = TestClient(shared.http.app, base_url="https://coordinator.example")
    answer = behind_https.post("/ui/sign-in", data={"token": ADMIN_TOKEN}, follow_redirects=False)
    assert "Secure" in answer.headers["set-cookie"]


def test_a_session_ends_by_the_database_s_clock(furnished: Coordinator) -> None:
    browser = browser_of(furnished)
    assert browser.get("/ui/federations", follow_redirects=False).status_code == 200
    furnished.clock.move(SESSION_SECONDS + 1)
    assert browser.get("/ui/federations", follow_redirects=False).status_code == 303


def test_a_forged_session_is_none(shared: Coordinator) -> None:
    browser = browser_of(shared)
    head, body, signature = str(browser.cookies[COOKIE]).split(".")
    for forged in (f"{head}.{body}.{signature[::-1]}", f"eyJhbGciOiJub25lIn0.{body}.", "x", ""):
        stranger = browser_of(shared, signed_in=False)
        stranger.cookies.set(COOKIE, forged, path="/ui")
        assert stranger.get("/ui/federations", follow_redirects=False).status_code == 303


@pytest.mark.parametrize("path", ["/ui/sign-in", *READ])
def test_every_page_forbids_whatever_is_inline_or_elsewhere(shared: Coordinator, path: str) -> None:
    answer = browser_of(shared).get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"\sstyle=|\son[a-z]+=|<script(?![^>]* src=)|<style", answer.text)
    assert not re.search(r"""(src|href|action)=["'](https?:)?//""", answer.text)


def test_a_round_says_without_scripts_why_an_update_was_refused(shared: Coordinator) -> None:
    text = browser_of(shared).get("/ui/federations/alpha/rounds/5").text
    assert "out_of_bounds" in text
    assert "quarantined" in text


def test_curves_can_be_read_as_tables(shared: Coordinator) -> None:
    text = browser_of(shared).get("/ui/federations/alpha").text
    for metric in ("accuracy", "nll", "ece"):
        assert f'id="table-{metric}"' in text
    assert "0.410" in text


def test_text_that_a_caller_brought_in_stays_text(shared: Coordinator) -> None:
    text = browser_of(shared).get('/ui/federations/alpha/events?text=<script>alert("x")</script>').text
    assert "<script>alert" not in text
    assert "&lt;script&gt;" in text


def test_the_audit_search_narrows_by_text_action_actor_and_day(shared: Coordinator) -> None:
    browser = browser_of(shared)

    def rows(query: str) -> int:
        return browser.get(f"/ui/federations/alpha/events?{query}").text.count('<th scope="row">')

    assert rows("action=update.quarantined") == 1
    assert rows("text=out_of_bounds") == 1
    assert rows("action=round.started&actor=worker") == 5
    assert rows("actor=admin&action=federation.activated") == 1
    assert rows("since=2999-01-01") == 0
    assert rows("until=2000-01-01") == 0
    assert rows("text=%25") == 0, "a wildcard is searched for as it is"
    assert browser.get("/ui/federations/alpha/events?since=yesterday").status_code == 422


def test_older_events_are_a_page_away(shared: Coordinator) -> None:
    browser = browser_of(shared)
    first = browser.get("/ui/federations/alpha/events").text
    (older,) = re.findall(r'href="([^"]+)">Older</a>', first)
    second = browser.get(older.replace("&amp;", "&")).text
    seen = [set(re.findall(r'<th scope="row">(\d+)</th>', text)) for text in (first, second)]
    assert seen[0]
    assert seen[1]
    assert not seen[0] & seen[1]


def test_what_is_not_there_is_a_page_that_says_so(shared: Coordinator) -> None:
    browser = browser_of(shared)
    for path in (
        "/ui/federations/nope",
        "/ui/federations/alpha/rounds/99",
        "/ui/federations/alpha/versions/99",
    ):
        answer = browser.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/html")


ACTIONS = [
    ("pause", "alpha", "federation.paused"),
    ("abandon-round", "round", "round.abandoned"),
    ("roll-back", "3", "model_version.promoted"),
    ("suspend", "site", "site.suspended"),
    ("revoke", "site", "site.revoked"),
]


def test_actions_are_confirmed_done_and_recorded_in_the_admin_s_name(furnished: Coordinator) -> None:
    browser = browser_of(furnished)
    site = furnished.admin.get("/v1/federations/alpha/sites")["items"][2]["site_id"]
    for action, target, event in ACTIONS:
        target = {"round": furnished.live_round()["round_id"], "site": site}.get(target, target)
        asked = f"/ui/federations/alpha/confirm?action={action}&target={target}&what=it&back=/ui/federations/alpha"
        before = len(events_of(furnished, event))
        assert browser.get(asked).status_code == 200
        assert len(events_of(furnished, event)) == before, "asking changes nothing"
        form = {"action": action, "target": target, "csrf": csrf_of(browser), "back": "/ui/federations/alpha"}
        answer = browser.post("/ui/federations/alpha/actions", data=form, follow_redirects=False)
        assert (answer.status_code, answer.headers.get("location")) == (303, "/ui/federations/alpha"), (
            answer.text
        )
        recorded = events_of(furnished, event)
        assert len(recorded) == before + 1
        assert recorded[-1]["actor"] == "admin"
    assert furnished.admin.get("/v1/federations/alpha")["serving_version"] == 3


def test_a_form_without_its_token_or_from_elsewhere_does_nothing(shared: Coordinator) -> None:
    browser = browser_of(shared)
    form = {"action": "pause", "target": "alpha", "csrf": csrf_of(browser)}
    path = "/ui/federations/alpha/actions"
    other = csrf_of(browser_of(shared))
    assert browser.post(path, data=form | {"csrf": other}).status_code == 403
    assert browser.post(path, data=form | {"csrf": "\u00e9" * 64}).status_code == 403
    for headers in ({"Origin": "https://elsewhere.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert browser.post(path, data=form, headers=headers).status_code == 403
    assert shared.admin.get("/v1/federations/alpha")["status"] == "active"


def test_an_action_that_is_not_possible_is_refused_as_the_api_does(shared: Coordinator) -> None:
    browser = browser_of(shared)
    form = {"action": "resume", "target": "alpha", "csrf": csrf_of(browser)}
    answer = browser.post("/ui/federations/alpha/actions", data=form)
    assert answer.status_code == 409
    assert "is active" in answer.text
    assert browser.post("/ui/federations/alpha/actions", data=form | {"action": "explode"}).status_code == 404


def test_nobody_is_sent_to_another_host(shared: Coordinator) -> None:
    stranger = browser_of(shared, signed_in=False)
    for path in (
        "https://elsewhere.example",
        "//elsewhere.example",
        "/ui//elsewhere.example",
        "/\\elsewhere",
    ):
        form = {"token": ADMIN_TOKEN, "next": path}
        answer = stranger.post("/ui/sign-in", data=form, follow_redirects=False)
        assert answer.headers["location"] == "/ui"


def test_an_invitation_shows_a_token_that_is_good(furnished: Coordinator) -> None:
    browser = browser_of(furnished)
    form = {"organisation": "clinic-z", "hours": "1", "csrf": csrf_of(browser)}
    text = browser.post("/ui/federations/alpha/invitations", data=form).text
    (token,) = re.findall(r"enr_[\w-]+", text)
    key = SigningKey.generate()
    enrolled = furnished.anonymous().post("/v1/sites", furnished.enrolment(token, "new", key), status=201)
    assert enrolled["site"]["organisation"] == "clinic-z"
    assert (
        browser.post("/ui/federations/alpha/invitations", data=form | {"organisation": "A B"}).status_code
        == 422
    )


def test_signing_out_forgets_the_session(shared: Coordinator) -> None:
    browser = browser_of(shared)
    browser.post("/ui/sign-out", data={"csrf": csrf_of(browser)})
    assert browser.get("/ui/federations", follow_redirects=False).status_code == 303


def test_without_inference_trying_says_where_to_ask(shared: Coordinator) -> None:
    browser = browser_of(shared)
    files = {"image": ("x.png", b"\x89PNG", "image/png")}
    answer = browser.post("/ui/federations/alpha/try", data={"csrf": csrf_of(browser)}, files=files)
    assert answer.status_code == 503
    assert "inference" in answer.text


def test_the_api_s_pages_load_nothing_from_elsewhere(shared: Coordinator) -> None:
    answer = shared.http.get("/docs")
    assert answer.status_code == 200
    files = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert files
    for path in files:
        assert path.startswith("/")
        assert shared.http.get(path).status_code == 200
    assert shared.http.get("/redoc").status_code == 404
