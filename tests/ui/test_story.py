"""A new admin's whole way through the dashboard in a real Chromium, at two widths.

Each scene must fit, be clean by axe, and have the structure that `structure.txt` holds of it: what a screen reader
comes by, without what differs from run to run. `UPDATE_STRUCTURE=1` writes it anew; look at the difference then.
Each task must take less than a minute by the keystroke-level model, and what the documentation says of it.
"""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from scripts.screenshots import API, DASHBOARD
from tests.server import serving_parts as parts
from tests.ui.api_story import ApiStory
from tests.ui.cast import PAGE, Cast, staged
from tests.ui.conftest import signed_in
from tests.ui.effort import Meter
from tests.ui.story import TASKS, Story
from tests.ui.test_browser import faults

pytestmark = pytest.mark.timeout(900)
STRUCTURE = Path(__file__).with_name("structure.txt")
ROLES = (
    "alert|button|checkbox|combobox|group|heading|img|link|navigation|region|spinbutton|table|term|textbox"
)
"""Without cells, of which there are as many as rows, and column headers, some of which a narrow page leaves out."""
CHANGING = (
    (r"(sha256:|\w{3}_)[\w-]{20,}", r"\1..."),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME"),
    (r"[\d.]+(e\+\d+)?", "N"),
    (r"\b(bird|fruit|tool)\b", "CLASS"),
)
MINUTE = 60.0
CLOSE = 2.0
"""Seconds that the documentation may be off: how far a page is scrolled depends on its letters."""
WIDE = (1280, 900)


@pytest.mark.parametrize("size", [WIDE, (390, 844)], ids=["wide", "narrow"])
def test_an_admin_founds_and_steers_a_federation(
    browser: Browser, tmp_path: Path, size: tuple[int, int]
) -> None:
    image = tmp_path / "bird.png"
    image.write_bytes(parts.encoded(parts.picture()))
    structure: dict[str, str] = {}
    with staged(tmp_path) as stage:
        for page in signed_in(browser, stage.place, size):

            def look(scene: str, page: Page = page) -> None:
                fits_and_reads(page, scene)
                structure[scene] = structure_of(page)

            story = Story(page, Cast(stage), image, look)
            story.play()
    text = "".join(f"# {scene}\n{lines}\n\n" for scene, lines in structure.items())
    if os.environ.get("UPDATE_STRUCTURE") == "1":
        STRUCTURE.write_text(text)
    assert text == STRUCTURE.read_text()
    tasks_take_less_than_a_minute(story.meter)
    if size == WIDE:
        tasks_take_what_is_documented(story.meter, "`/ui`")


def fits_and_reads(page: Page, scene: str) -> None:
    too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert too_wide <= 0, f"{scene} is {too_wide} pixels too wide"
    assert not faults(page), scene


def structure_of(page: Page) -> str:
    """What the page consists of, a role and its name a line, without what differs from run to run."""
    lines = re.findall(rf"^ *- '?((?:{ROLES})\b.*?)'?:?$", page.locator("main").aria_snapshot(), re.MULTILINE)
    text = "\n".join(lines)
    for changing, stands in CHANGING:
        text = re.sub(changing, stands, text)
    return text


def test_an_admin_does_the_same_from_the_api_s_pages(browser: Browser, tmp_path: Path) -> None:
    image = tmp_path / "bird.png"
    image.write_bytes(parts.encoded(parts.picture()))
    with staged(tmp_path) as stage:
        for page in signed_in(browser, stage.place, WIDE):
            story = ApiStory(page, Cast(stage), image, lambda _: None)
            story.play()
            tasks_take_less_than_a_minute(story.meter)
            tasks_take_what_is_documented(story.meter, "`/docs`")


def tasks_take_less_than_a_minute(meter: Meter) -> None:
    assert tuple(meter.tasks) == TASKS
    slow = {task: effort.seconds for task, effort in meter.tasks.items() if effort.seconds >= MINUTE}
    assert not slow


def tasks_take_what_is_documented(meter: Meter, way: str) -> None:
    """Hold the page's table to what was counted; the message is what should stand there."""
    counted = [(task, f"{it.clicks} | {it.keys} | {it.answers}") for task, it in meter.tasks.items()]
    rows = re.findall(rf"^\| ([\w ]+) \| {way} \| (.+) \| (\d+) \|$", PAGE.read_text(), re.MULTILINE)
    modelled = [it.seconds for it in meter.tasks.values()]
    wanted = "\n".join(
        f"| {task} | {way} | {counts} | {seconds:.0f} |"
        for (task, counts), seconds in zip(counted, modelled, strict=True)
    )
    assert [(task, counts) for task, counts, _ in rows] == counted, wanted
    assert [float(seconds) for *_, seconds in rows] == pytest.approx(modelled, abs=CLOSE), wanted


def test_the_page_shows_every_picture_that_is_taken_and_no_other() -> None:
    shown = re.findall(r"\]\(\.\./images/([\w-]+\.png)\)", PAGE.read_text())
    assert sorted(shown) == sorted(shot.file for shot in (*DASHBOARD.values(), *API.values()))


def test_whatever_the_page_says_to_press_is_pressed_in_the_stories() -> None:
    labels = set(re.findall(r"(?<!\*)\*([A-Z][^*\n]+)\*", PAGE.read_text()))
    played = "".join(Path(__file__).with_name(name).read_text() for name in ("story.py", "api_story.py"))
    assert len(labels) >= 20
    assert not {label for label in labels if f'"{label}' not in played}
