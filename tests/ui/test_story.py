"""A new admin's whole way through the dashboard in a real Chromium, at two widths.

Each scene must fit, be clean by axe, and have the structure that `structure.txt` holds of it: what a screen reader
comes by, without what differs from run to run. `UPDATE_STRUCTURE=1` writes it anew; look at the difference then.
"""

import os
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from tests.server import serving_parts as parts
from tests.ui.api_story import ApiStory
from tests.ui.cast import Cast, staged
from tests.ui.conftest import signed_in
from tests.ui.story import Story
from tests.ui.test_browser import faults

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


@pytest.mark.parametrize("size", [(1280, 900), (390, 844)], ids=["wide", "narrow"])
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

            Story(page, Cast(stage), image, look).play()
    text = "".join(f"# {scene}\n{lines}\n\n" for scene, lines in structure.items())
    if os.environ.get("UPDATE_STRUCTURE") == "1":
        STRUCTURE.write_text(text)
    assert text == STRUCTURE.read_text()


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
        for page in signed_in(browser, stage.place, (1280, 900)):
            ApiStory(page, Cast(stage), image, lambda _: None).play()
