"""One federation from its first form to a rollback, clicked by an admin in a real browser; nothing else steers it.

Rules:
1. Every step of the admin's is a click or a key on a page; the sites are played by the cast.
2. Each scene is shown to `look`, by name: tests check it, and `scripts/screenshots.py` takes its picture.
3. Each of the `TASKS` begins at the list of federations, and the meter says what it takes.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, expect
from tests.ui.cast import CLASSES, DROPPED, NAME, SITES, Cast
from tests.ui.effort import Meter

LIST: Final = "/ui/federations"
HOME: Final = f"{LIST}/{NAME}"
TASKS: Final = (
    "create",
    "run",
    "invite",
    "inspect",
    "find why an update was refused",
    "promote",
    "roll back",
)
Look = Callable[[str], None]


@dataclass
class Story:
    """The admin at `page`, with an `image` to ask about."""

    page: Page
    cast: Cast
    image: Path
    look: Look
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self.meter = Meter(self.page)

    def play(self) -> None:
        """Play it all."""
        self.mistype_the_terms()
        self.create()
        self.run()
        for site, organisation in SITES:
            self.cast.enrol(self.invite(organisation), site)
        self.cast.learn()
        self.inspect_a_round()
        self.find_out_why_an_update_was_refused()
        self.pause_and_close()
        self.promote_what_was_held()
        self.roll_back()
        self.predict()
        self.read_the_audit()

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """Begin one of the tasks at the list of federations."""
        self.page.goto(LIST)
        with self.meter.task(name):
            yield

    def mistype_the_terms(self) -> None:
        """Give terms that no round could close by, and leave it."""
        page = self.page
        page.get_by_role("link", name="Create a federation").click()
        self._type_terms(sites_to_start="2", quorum="3")
        expect(page.get_by_role("alert")).to_contain_text("min_sites_to_start 2 is below quorum 3")
        self.look("create-mend")
        page.get_by_label("Sites to start").fill("3")
        page.get_by_label("Quorum").fill("2")
        page.get_by_role("button", name="Look it over").click()
        page.get_by_role("button", name="No, change it").click()
        expect(page.get_by_label("Classes")).to_have_value("\n".join(CLASSES))
        page.get_by_role("link", name="Leave it").click()

    def create(self) -> None:
        """Fill the form in, and look it over."""
        page = self.page
        with self.task("create"):
            page.get_by_role("link", name="Create a federation").click()
            self._type_terms(sites_to_start="3", quorum="2")
            expect(page.get_by_role("heading", name=f"Create: {NAME}?")).to_be_visible()
            self.look("create-review")
            page.get_by_role("button", name="Yes, create it").click()
            page.wait_for_url(f"**{HOME}")
            expect(page.get_by_text("draft", exact=True).first).to_be_visible()
        self.look("draft")

    def run(self) -> None:
        """Upload a file of no use, and then version 0; activate, and rounds begin as soon as sites are there."""
        page = self.page
        page.get_by_role("link", name="Put the initial parameters").click()
        self._put(b"no tensors")
        expect(page.get_by_role("alert")).to_contain_text("not a parameters file")
        self.look("initial-parameters")
        content = self.cast.initial_file()
        with self.task("run"):
            page.get_by_role("link", name=NAME).click()
            page.get_by_role("link", name="Put the initial parameters").click()
            self._put(content)
            expect(page.get_by_role("link", name="version 0")).to_be_visible()
            self.confirm("Activate")
            expect(page.get_by_text("active", exact=True).first).to_be_visible()

    def invite(self, organisation: str) -> str:
        """Make a token, and copy the command that the organisation is to run."""
        page = self.page
        with self.task("invite"):
            page.get_by_role("link", name=NAME).click()
            page.get_by_role("link", name="Sites", exact=True).click()
            page.get_by_role("textbox", name="Organisation").fill(organisation)
            page.get_by_role("button", name="Make the token").click()
            page.get_by_role("region", name="What to hand over").click()
            page.keyboard.press("Control+C")
            copied = str(page.evaluate("getSelection().toString()"))
        self.look("invitation")
        page.get_by_role("link", name="Done").click()
        (token,) = re.findall(r"^export PFEDBAYESPT_TOKEN=(enr_\S+)$", copied, re.MULTILINE)
        return str(token)

    def inspect_a_round(self) -> None:
        """Follow a round while it goes on, and read what an update holds."""
        page, coordinator = self.page, self.cast.coordinator
        page.get_by_role("link", name="Overview").click()
        page.get_by_role("link", name="Round 5").click()
        timeline = page.get_by_role("table", name=re.compile("Timeline"))
        expect(timeline.get_by_text("accepted", exact=True)).to_have_count(0)
        for site in self.cast.sites[:2]:
            coordinator.clock.move(25)
            self.cast.train(site)
        expect(timeline.get_by_text("accepted", exact=True)).to_have_count(2)
        with self.task("inspect"):
            page.get_by_role("link", name=NAME).click()
            page.get_by_role("link", name="Round 5").click()
            page.locator(".update summary").filter(has_text="north").click()
            expect(page.locator(".update[open]").get_by_text("Examples")).to_be_visible()

    def find_out_why_an_update_was_refused(self) -> None:
        """See the reason on the timeline, and the whole verdict below it."""
        page, coordinator = self.page, self.cast.coordinator
        coordinator.clock.move(30)
        assert self.cast.send(self.cast.sites[2], 1e9).status_code == 422
        with self.task("find why an update was refused"):
            page.get_by_role("link", name=NAME).click()
            page.get_by_role("link", name="Round 5").click()
            timeline = page.get_by_role("table", name=re.compile("Timeline"))
            expect(timeline).to_contain_text("out_of_bounds")
            page.locator(".update summary").filter(has_text="quarantined").click()
            expect(page.locator(".update[open] .notice")).to_contain_text("allowed: up to")
        self.look("round")

    def pause_and_close(self) -> None:
        """Pause, resume, and close the round before all sites have sent."""
        page = self.page
        page.get_by_role("link", name="Overview").click()
        self.confirm("Pause")
        self.look("paused")
        self.confirm("Resume")
        self.confirm("Close the round", look="close")
        self.cast.coordinator.settle()
        expect(page.get_by_role("link", name="Round 5").first).to_be_visible()

    def promote_what_was_held(self) -> None:
        """A version that does worse is held; the admin lets it serve after all."""
        page = self.page
        self.cast.report(DROPPED, step=0.02)  # so that it drops most at the first site
        with self.task("promote"):
            page.get_by_role("link", name=NAME).click()
            page.get_by_role("link", name="Versions").click()
            page.get_by_role("link", name=re.compile("^Version 5, held")).click()
            expect(page.locator(".notice")).to_contain_text(
                "at site north accuracy falls by 0.1600; allowed: 0.0500"
            )
            self.look("held")
            self.confirm("Promote")
            expect(page.locator(".badge.serving")).to_be_visible()

    def roll_back(self) -> None:
        """Go back to the version before it."""
        page = self.page
        with self.task("roll back"):
            page.get_by_role("link", name=NAME).click()
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

    def _type_terms(self, sites_to_start: str, quorum: str) -> None:
        """Fill the form in and send it with the keys alone."""
        page, backbone = self.page, self.cast.stage.backbone
        terms = {
            "Name": NAME,
            "Classes": "\n".join(CLASSES),
            "Architecture": backbone.architecture,
            "Digest of the weights": backbone.weights_digest,
            "Image size, pixels": str(backbone.image_size_pixels),
            "Prompted blocks": "2",
            "Rounds (optional)": "12",
            "Sites to start": sites_to_start,
            "Quorum": quorum,
            "Allowed drop of accuracy (optional)": "0.05",
        }
        for label, text in terms.items():
            field = page.get_by_label(label, exact=True)
            while not field.evaluate("it => it === document.activeElement"):
                page.keyboard.press("Tab")
            page.keyboard.type(text)
        page.keyboard.press("Enter")

    def _put(self, content: bytes) -> None:
        file = {"name": "version-0.safetensors", "mimeType": "application/octet-stream", "buffer": content}
        self.page.get_by_label("Parameters file").set_input_files(file)  # type: ignore[arg-type]
        self.page.get_by_role("button", name="Yes, put this file").click()
