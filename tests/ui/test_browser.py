"""The dashboard in a real Chromium: what an admin clicks, at two widths, and what axe finds."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.server import serving_parts as parts
from tests.server.harness import check, running, settings_for
from tests.ui.conftest import Place, listening, signed_in

from pfedbayespt.server import ServerRole

AXE = (Path(__file__).parent / "vendor/axe-core/axe.min.js").read_text()
PAGES = ("", "/rounds/4", "/rounds/5", "/versions", "/versions/4", "/sites", "/try", "/events")


def faults(page: Page) -> list[str]:
    """What axe finds on the page: contrast, names, roles, order."""
    page.evaluate(AXE)
    found: list[dict[str, Any]] = page.evaluate("axe.run().then(result => result.violations)")
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found]


def test_every_page_fits_and_axe_has_nothing_to_say(page: Page) -> None:
    for path in ["/ui/federations", *(f"/ui/federations/alpha{each}" for each in PAGES)]:
        page.goto(path)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        overflow = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert overflow <= 0, f"{path} is {overflow} pixels too wide"
        assert not faults(page), path


def test_an_admin_finds_out_why_an_update_was_refused(page: Page) -> None:
    page.get_by_role("link", name="alpha", exact=True).click()
    expect(page.get_by_role("table", name=re.compile("Timeline"))).to_contain_text("out_of_bounds")
    page.get_by_role("link", name="Round 5").click()
    page.locator(".update summary").filter(has_text="quarantined").click()
    expect(page.locator(".update .notice")).to_contain_text("allowed: up to")


def test_curves_are_drawn_and_lineage_leads_to_versions(wide_page: Page) -> None:
    wide_page.goto("/ui/federations/alpha/versions")
    expect(wide_page.locator(".plot canvas")).to_have_count(3)
    wide_page.get_by_role("link", name="Version 3, retired, 3 updates").click()
    wide_page.wait_for_url("**/versions/3")
    expect(wide_page.get_by_role("region", name="Evaluations, table")).to_contain_text("north")


def test_a_page_follows_what_happens_and_keeps_what_was_open(wide_page: Page, place: Place) -> None:
    wide_page.goto("/ui/federations/alpha")
    wide_page.get_by_text("As a table").first.click()
    row = wide_page.get_by_role("row").filter(has_text="south").first
    expect(row).to_contain_text("quarantined")
    site = place.coordinator.admin.get("/v1/federations/alpha/sites")["items"][2]["site_id"]
    place.coordinator.admin.post(f"/v1/sites/{site}/suspend")
    expect(wide_page.get_by_text("2 active of 3")).to_be_visible()
    expect(wide_page.locator("#table-accuracy")).to_have_attribute("open", "")
    expect(wide_page.locator(".plot canvas")).to_have_count(3)
    place.coordinator.admin.post(f"/v1/sites/{site}/reinstate")
    expect(wide_page.get_by_text("3 active of 3")).to_be_visible()


def test_an_action_is_confirmed_with_the_keyboard_alone_and_audited(wide_page: Page, place: Place) -> None:
    wide_page.goto("/ui/federations/alpha")
    pause = wide_page.get_by_role("link", name="Pause")
    for _ in range(20):
        wide_page.keyboard.press("Tab")
        if pause.evaluate("element => element === document.activeElement"):
            break
    wide_page.keyboard.press("Enter")
    expect(wide_page.get_by_role("heading", name="Pause: alpha?")).to_be_visible()
    assert not faults(wide_page)
    wide_page.get_by_role("button", name="Yes, pause").focus()
    wide_page.keyboard.press("Enter")
    expect(wide_page.get_by_role("link", name="Resume")).to_be_visible()
    wide_page.goto("/ui/federations/alpha/events?action=federation.paused")
    expect(wide_page.get_by_role("row").nth(1)).to_contain_text("admin")
    place.coordinator.admin.post("/v1/federations/alpha/resume")


def test_an_admin_rolls_back_and_invites(wide_page: Page, place: Place) -> None:
    wide_page.goto("/ui/federations/alpha/versions/3")
    wide_page.get_by_role("link", name="Roll back to this version").click()
    wide_page.get_by_role("button", name="Yes").click()
    expect(wide_page.locator(".badge.serving")).to_be_visible()
    assert place.coordinator.admin.get("/v1/federations/alpha")["serving_version"] == 3
    wide_page.get_by_role("link", name="Sites").click()
    wide_page.get_by_role("textbox", name="Organisation").fill("clinic-d")
    wide_page.get_by_role("button", name="Make the token").click()
    expect(wide_page.get_by_role("region", name="What to hand over")).to_contain_text("TOKEN=enr_")
    assert not faults(wide_page)


def test_the_api_can_be_tried_from_its_own_pages(wide_page: Page) -> None:
    wide_page.goto("/docs")
    expect(wide_page.get_by_role("heading", name=re.compile("pFedBayesPT coordinator"))).to_be_visible()
    expect(wide_page.get_by_role("button", name="Authorize")).to_be_visible()
    expect(wide_page.locator(".opblock").first).to_be_visible()


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Place]:
    """A coordinator that answers, with a tiny real ViT."""
    config = parts.tiny_backbone(tmp_path / "backbones")
    agreed = parts.specification_on(config)
    roles = frozenset({ServerRole.COORDINATOR, ServerRole.INFERENCE})
    settings = settings_for(tmp_path / "data", roles=roles, backbone_cache_dir=tmp_path / "backbones")
    with running(settings) as coordinator:
        body = {"name": "alpha", "specification": agreed.model_dump(mode="json")}
        coordinator.admin.post("/v1/federations", body, status=201)
        (weights,) = (tmp_path / "backbones").iterdir()
        content = parts.file_of(parts.parameters_of(agreed, weights, seed=0), agreed, 0)
        check(coordinator.admin.put_file("/v1/federations/alpha/initial-parameters", content), 201)
        coordinator.admin.post("/v1/federations/alpha/activate")
        with listening(coordinator.http.app) as url:  # type: ignore[arg-type]
            yield Place(coordinator, url)


def test_an_image_is_tried_and_its_doubt_is_shown(browser: Browser, answering: Place) -> None:
    for page in signed_in(browser, answering, (390, 844)):
        page.goto("/ui/federations/alpha/try")
        image = {"name": "x.png", "mimeType": "image/png", "buffer": parts.encoded(parts.picture())}
        page.get_by_label("Image (JPEG").set_input_files(image)  # type: ignore[arg-type]
        page.get_by_label("Samples").fill("12")
        page.get_by_role("button", name="Predict").click()
        expect(page.get_by_role("heading", name=re.compile("bird|fruit|tool"))).to_be_visible()
        expect(page.locator("circle.sample")).to_have_count(3 * 12)
        expect(page.get_by_role("img", name="The image that was uploaded")).to_be_visible()
        expect(page.get_by_text("nats").first).to_be_visible()
        assert not faults(page)


def test_what_an_invitation_says_to_run_joins(browser: Browser, answering: Place, tmp_path: Path) -> None:
    for page in signed_in(browser, answering, (1280, 900)):
        page.goto("/ui/federations/alpha/sites")
        page.get_by_role("textbox", name="Organisation").fill("clinic-d")
        page.get_by_role("button", name="Make the token").click()
        page.get_by_role("region", name="What to hand over").click()
        handed_over = page.evaluate("getSelection().toString()")
        (weights,) = (tmp_path / "backbones").iterdir()
        script = handed_over.replace("FILE", shlex.quote(str(weights)))
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        subprocess.run(
            ["bash", "-euc", script],
            cwd=tmp_path,
            env=os.environ | {"PATH": programs},
            check=True,
            timeout=120,
        )
        page.get_by_role("link", name="Done").click()
        expect(page.get_by_role("row").filter(has_text="clinic-d")).to_contain_text("active")
