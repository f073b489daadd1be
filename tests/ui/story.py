"""One federation from its first form to a rollback, clicked by an admin in a real browser; nothing else steers it.

Rules:
1. Every step of the admin's is a click or a key on a page; the sites are played by the cast.
2. Each scene is shown to `look`, by name: tests check it, and `scripts/screenshots.py` takes its picture.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, expect
from tests.ui.cast import CLASSES, DROPPED, NAME, SITES, Cast

HOME: Final = f"/ui/federations/{NAME}"
Look = Callable[[str], None]


@dataclass
class Story:
    """The admin at `page`, with an `image` to ask about."""

    page: Page
    cast: Cast
    image: Path
    look: Look

    def play(self) -> None:
        """Play it all."""
        self.create()
        self.put_initial_parameters()
        self.confirm("Activate")
        expect(self.page.get_by_text("active", exact=True).first).to_be_visible()
        for site, organisation in SITES:
            self.cast.enrol(self.invite(organisation), site)
        self.cast.learn()
        self.watch_a_round()
        self.promote_what_was_held()
        self.roll_back()
        self.predict()
        self.read_the_audit()

    def create(self) -> None:
        """Fill the form in, wrongly at first."""
        page = self.page
        page.get_by_role("link", name="Create a federation").click()
        for label, text in (
            ("Name", NAME),
            ("Classes", "\n".join(CLASSES)),
            ("Architecture", self.cast.stage.backbone.architecture),
            ("Digest of the weights", self.cast.stage.backbone.weights_digest),
            ("Image size, pixels", str(self.cast.stage.backbone.image_size_pixels)),
            ("Prompted blocks", "2"),
            ("Rounds (optional)", "12"),
            ("Sites to start", "2"),
            ("Quorum", "3"),
            ("Allowed drop of accuracy (optional)", "0.05"),
        ):
            page.get_by_label(label, exact=True).fill(text)
        page.get_by_role("button", name="Look it over").click()
        expect(page.get_by_role("alert")).to_contain_text("min_sites_to_start 2 is below quorum 3")
        self.look("create-mend")
        page.get_by_label("Sites to start").fill("3")
        page.get_by_label("Quorum").fill("2")
        page.get_by_role("button", name="Look it over").click()
        expect(page.get_by_role("heading", name=f"Create: {NAME}?")).to_be_visible()
        self.look("create-review")
        page.get_by_role("button", name="No, change it").click()
        expect(page.get_by_label("Classes")).to_have_value("\n".join(CLASSES))
        page.get_by_role("button", name="Look it over").click()
        page.get_by_role("button", name="Yes, create it").click()
        page.wait_for_url(f"**{HOME}")
        expect(page.get_by_text("draft", exact=True).first).to_be_visible()
        self.look("draft")

    def put_initial_parameters(self) -> None:
        """Upload a file of no use, and then what `pfedbayespt admin initial-parameters` writes."""
        page = self.page
        page.get_by_role("link", name="Put the initial parameters").click()
        self._put(b"no tensors")
        expect(page.get_by_role("alert")).to_contain_text("not a parameters file")
        self.look("initial-parameters")
        self._put(self.cast.initial_file())
        expect(page.get_by_role("link", name="version 0")).to_be_visible()

    def invite(self, organisation: str) -> str:
        """Make a token."""
        page = self.page
        page.goto(f"{HOME}/sites")
        page.get_by_role("textbox", name="Organisation").fill(organisation)
        page.get_by_role("button", name="Make the token").click()
        token = page.get_by_text(re.compile("^enr_")).inner_text()
        self.look("invitation")
        page.get_by_role("link", name="Done").click()
        return token

    def watch_a_round(self) -> None:
        """Follow a round while it goes on, find out why an update was refused, pause, resume, and close it."""
        page, coordinator = self.page, self.cast.coordinator
        page.goto(HOME)
        page.get_by_role("link", name="Round 5").click()
        timeline = page.get_by_role("table", name=re.compile("Timeline"))
        expect(timeline.get_by_text("accepted", exact=True)).to_have_count(0)
        for site in self.cast.sites[:2]:
            coordinator.clock.move(25)
            self.cast.train(site)
        expect(timeline.get_by_text("accepted", exact=True)).to_have_count(2)
        coordinator.clock.move(30)
        assert self.cast.send(self.cast.sites[2], 1e9).status_code == 422
        expect(timeline).to_contain_text("out_of_bounds")
        page.locator(".update summary").filter(has_text="quarantined").click()
        expect(page.locator(".update[open] .notice")).to_contain_text("allowed: up to")
        self.look("round")
        page.goto(HOME)
        self.confirm("Pause")
        self.look("paused")
        self.confirm("Resume")
        self.confirm("Close the round", look="close")
        coordinator.settle()
        expect(page.get_by_role("link", name="Round 5").first).to_be_visible()

    def promote_what_was_held(self) -> None:
        """A version that does worse is held; the admin lets it serve after all."""
        page = self.page
        self.cast.report(DROPPED)
        page.goto(f"{HOME}/versions")
        page.get_by_role("link", name=re.compile("^Version 5, held")).click()
        self.look("held")
        self.confirm("Promote")
        expect(page.locator(".badge.serving")).to_be_visible()

    def roll_back(self) -> None:
        """Go back to the version before it."""
        page = self.page
        page.get_by_role("link", name="Versions").click()
        page.get_by_role("link", name=re.compile("^Version 4, retired")).click()
        self.confirm("Roll back to this version")
        expect(page.locator(".badge.serving")).to_be_visible()
        page.get_by_role("link", name="Versions").click()
        expect(page.locator(".plot canvas")).to_have_count(3)
        self.look("versions")

    def predict(self) -> None:
        """Ask the version that serves about an image."""
        page = self.page
        page.get_by_role("link", name="Try it").click()
        page.get_by_label("Image (JPEG").set_input_files(self.image)
        page.get_by_label("Samples").fill("24")
        page.get_by_role("button", name="Predict").click()
        expect(page.locator("circle.sample")).to_have_count(len(CLASSES) * 24)
        self.look("try")

    def read_the_audit(self) -> None:
        """Find it all on record, in the admin's name."""
        self.page.get_by_role("link", name="Audit").click()
        expect(self.page.get_by_role("row").nth(1)).to_contain_text("admin")
        self.look("audit")

    def confirm(self, action: str, look: str | None = None) -> None:
        """Ask for an action and say yes."""
        self.page.get_by_role("link", name=action, exact=True).click()
        expect(self.page.get_by_role("button", name=f"Yes, {action.lower()}")).to_be_visible()
        if look:
            self.look(look)
        self.page.get_by_role("button", name=f"Yes, {action.lower()}").click()
        expect(self.page.get_by_role("link", name=action, exact=True)).to_have_count(0)

    def _put(self, content: bytes) -> None:
        file = {"name": "version-0.safetensors", "mimeType": "application/octet-stream", "buffer": content}
        self.page.get_by_label("Parameters file").set_input_files(file)  # type: ignore[arg-type]
        self.page.get_by_role("button", name="Yes, put this file").click()
