"""Play a federation in a real browser against a real coordinator, and take the documentation's pictures of it.

    python -m scripts.screenshots      # `make screenshots`; needs Chromium

1. The story is the one that tests click through (`tests/ui/story.py`, and `api_story.py` for `/docs`).
2. A picture shows the page from its top, or from what the scene is about, as far as it matters.
3. No picture has more than `MAX_BYTES`: they are in the repository.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from tests.ui.api_story import ApiStory
from tests.ui.cast import Cast, Stage, staged
from tests.ui.conftest import FLAGS, find_chromium, sign_in
from tests.ui.story import Story

ROOT: Final = Path(__file__).parents[1]
IMAGES: Final = ROOT / "docs/images"
QUESTION: Final = ROOT / "samples/ideograms/test/twitter/bird/1f989.webp"
"""What the version is asked about."""
WIDTH: Final = 1080
MAX_BYTES: Final = 200_000
_COLOURS: Final = 256


@dataclass(frozen=True)
class Shot:
    """A picture: its file, how high it is at most, and what stands at its top."""

    file: str
    height: int
    top: str | None = None


DASHBOARD: Final = {
    "create-mend": Shot("create.png", 955),
    "create-review": Shot("create-review.png", 720),
    "draft": Shot("draft.png", 530),
    "initial-parameters": Shot("initial-parameters.png", 640),
    "invitation": Shot("invitation.png", 520),
    "round": Shot("round.png", 1045),
    "paused": Shot("federation.png", 820),
    "close": Shot("confirm.png", 345),
    "held": Shot("held.png", 720),
    "versions": Shot("versions.png", 760),
    "try": Shot("try.png", 970),
    "audit": Shot("audit.png", 620),
}
API: Final = {
    "api-authorize": Shot("api-authorize.png", 620),
    "api-create": Shot("api-create.png", 720, ".opblock.is-open"),
    "api-refused": Shot(
        "api-refused.png", 900, ".opblock.is-open .execute-wrapper, .opblock.is-open .btn-group"
    ),
    "api-roll-back": Shot("api-roll-back.png", 1080, ".opblock.is-open"),
}


def main() -> int:
    """Take them all."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        _played(browser, DASHBOARD, lambda *scene: Story(*scene).play())
        _played(browser, API, lambda *scene: ApiStory(*scene).play())
        browser.close()
    return 0


def _played(
    browser: Browser,
    shots: Mapping[str, Shot],
    play: Callable[[Page, Cast, Path, Callable[[str], None]], None],
) -> None:
    with tempfile.TemporaryDirectory() as folder, staged(Path(folder)) as stage:
        page = _signed_in(browser, stage)
        play(page, Cast(stage), QUESTION, lambda scene: _take(page, shots[scene]))
        page.context.close()


def _signed_in(browser: Browser, stage: Stage) -> Page:
    page = browser.new_context(viewport={"width": WIDTH, "height": 900}, base_url=stage.url).new_page()
    sign_in(page)
    return page


def _take(page: Page, shot: Shot) -> None:
    """Write one picture, in as few colours as pages have.

    Raises:
        ValueError: it is too large for the repository.
    """
    top = page.locator(shot.top).first.bounding_box() if shot.top else None
    above = top["y"] + page.evaluate("scrollY") if top else 0
    picture = Image.open(BytesIO(page.screenshot(full_page=True, animations="disabled")))
    box = (0, round(above), picture.width, min(picture.height, round(above) + shot.height))
    reduced = picture.crop(box).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    file = IMAGES / shot.file
    reduced.save(file, optimize=True)
    size = file.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"{file} has {size} bytes; allowed: {MAX_BYTES}")
    sys.stdout.write(f"{file.relative_to(ROOT)}: {reduced.width} x {reduced.height}, {size} bytes\n")


if __name__ == "__main__":
    sys.exit(main())
