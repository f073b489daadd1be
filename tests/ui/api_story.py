"""The same federation steered from `/docs` alone: what the dashboard has pages for, as operations to try out.

The sites are played by the cast, each scene is shown to `look`, and the meter says what each task takes, as in
`story`. A task begins on a fresh page, authorized.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect
from tests.server.harness import ADMIN_TOKEN
from tests.ui.cast import CLASSES, DROPPED, NAME, SITES, Cast
from tests.ui.effort import Meter


@dataclass
class ApiStory:
    """The admin at `page`, with an `image` to ask about."""

    page: Page
    cast: Cast
    image: Path
    look: Callable[[str], None]
    meter: Meter = field(init=False)

    def __post_init__(self) -> None:
        self.meter = Meter(self.page)

    def play(self) -> None:
        """Play it all."""
        self.create()
        self.run()
        for site, organisation in SITES:
            self.cast.enrol(self.invite(organisation), site)
        self.cast.learn()
        self.steer_a_round()
        self.choose_a_version()
        self.predict()
        actions = {each["action"] for each in self.call("List events", 200, name=NAME)["items"]}
        assert {"federation.created", "federation.activated"} <= actions

    @contextmanager
    def task(self, name: str) -> Iterator[None]:
        """Begin one of the tasks on a fresh page."""
        self.authorize()
        with self.meter.task(name):
            yield

    def authorize(self) -> None:
        """Give the admin token."""
        self.page.goto("/docs")
        self.page.locator(".scheme-container").get_by_role("button", name="Authorize").click()
        dialog = self.page.locator(".modal-ux")
        dialog.locator("input").fill(ADMIN_TOKEN)
        if not self.meter.tasks:
            self.look("api-authorize")
        dialog.get_by_role("button", name="Apply credentials").click()
        dialog.locator(".btn-done").click()

    def create(self) -> None:
        """Edit the example into terms of one's own."""
        stage = self.cast.stage
        with self.task("create"):
            body = json.loads(self.open("Create a federation").locator("textarea").input_value())
            agreed = body["specification"]
            body["name"] = NAME
            agreed["classes"] = CLASSES
            agreed["backbone"]["architecture"] = stage.backbone.architecture
            agreed["backbone"]["weights_digest"] = stage.backbone.weights_digest
            agreed["backbone"]["image_size_pixels"] = stage.backbone.image_size_pixels
            agreed["insertion"]["num_blocks"] = 2
            agreed["rounds"] |= {"min_sites_to_start": 3, "quorum": 2, "max_accuracy_drop": 0.05}
            assert self.call("Create a federation", 201, body)["status"] == "draft"
        self.open("Create a federation").locator("textarea").evaluate("element => element.scrollTop = 0")
        self.look("api-create")

    def run(self) -> None:
        """Put version 0 and activate."""
        file = {"name": "version-0.safetensors", "buffer": self.cast.initial_file()}
        with self.task("run"):
            block = self.open("Put the initial parameters")
            block.locator("input[type=file]").set_input_files(
                {**file, "mimeType": "application/octet-stream"}
            )  # type: ignore[arg-type]
            assert self.call("Put the initial parameters", 201, name=NAME)["status"] == "serving"
            assert self.call("Activate a federation", 200, name=NAME)["status"] == "active"

    def invite(self, organisation: str) -> str:
        """Make a token."""
        with self.task("invite"):
            made = self.call("Create an enrolment token", 201, {"organisation": organisation}, name=NAME)
        return str(made["token"])

    def steer_a_round(self) -> None:
        """Watch a round, find out why an update was refused, pause, resume, close."""
        cast = self.cast
        for site in cast.sites[:2]:
            cast.train(site)
        with self.task("inspect"):
            live = self.call("List rounds", 200, name=NAME, limit="1")["items"][0]
            updates = self.call("List a round's updates", 200, round_id=live["round_id"])["items"]
        assert [each["manifest"]["num_examples"] for each in updates] == [120, 120]
        assert cast.send(cast.sites[2], 1e9).status_code == 422
        with self.task("find why an update was refused"):
            live = self.call("List rounds", 200, name=NAME, limit="1")["items"][0]
            updates = self.call(
                "List a round's updates", 200, round_id=live["round_id"], status="quarantined"
            )["items"]
        assert "allowed: up to" in updates[0]["verdict"]
        verdict = self.page.locator(".live-responses-table").get_by_text("out_of_bounds")
        verdict.evaluate("element => element.scrollIntoView({block: 'center'})")
        self.look("api-refused")
        assert self.call("Pause a federation", 200, name=NAME)["status"] == "paused"
        assert self.call("Resume a federation", 200, name=NAME)["status"] == "active"
        assert self.call("Close a round now", 200, round_id=live["round_id"])["status"] == "aggregating"
        cast.coordinator.settle()

    def choose_a_version(self) -> None:
        """Let the held version serve after all, and go back to the one before."""
        self.cast.report(DROPPED, step=0.02)  # so that it drops most at the first site
        for task, number, states in (
            ("promote", "5", ["held", "serving"]),
            ("roll back", "4", ["serving", "retired"]),
        ):
            with self.task(task):
                versions = self.call("List versions", 200, name=NAME)["items"]
                assert [each["status"] for each in versions[:2]] == states
                version = self.call("Promote a version", 200, name=NAME, number=number)
            assert version["status"] == "serving"
        self.look("api-roll-back")

    def predict(self) -> None:
        """Ask the version that serves about an image."""
        block = self.open("Classify an image")
        block.locator(".body-param-content-type select").select_option("image/png")
        block.locator("input[type=file]").set_input_files(self.image)
        answer = self.call("Classify an image", 200, name=NAME, num_samples="16")
        assert answer["model_version"] == 4

    def call(self, operation: str, code: int, body: Any = None, /, **parameters: str) -> Any:
        """Try an operation out, expect that status code, and return the answer."""
        block = self.open(operation)
        for name, value in parameters.items():
            field = block.locator(f'tr[data-param-name="{name}"]').locator("input, select")
            if field.evaluate("element => element.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
        if body is not None:
            block.locator("textarea").fill(json.dumps(body, indent=2))
        shown = block.locator(".live-responses-table")
        if shown.is_visible():
            block.locator(".btn-clear").click()
        block.locator(".execute").click()
        expect(shown.locator(".response-col_status").last).to_have_text(str(code))
        return json.loads(shown.locator(".highlight-code pre").first.inner_text())

    def open(self, operation: str) -> Locator:
        """Unfold an operation, the only one that is."""
        page = self.page
        block = page.locator(".opblock").filter(has=page.get_by_text(operation, exact=True))
        if "is-open" not in (block.get_attribute("class") or ""):
            for other in page.locator(".opblock.is-open").all():
                other.locator(".opblock-summary-control").click()
            block.locator(".opblock-summary-control").click()
        return block
