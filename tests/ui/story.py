"""One federation from its first form to a rollback, clicked by an admin in a real browser; nothing else steers it.

Rules:
1. Every step of the admin's is a click or a key on a page. The sites are played: their updates and their reports of
   how versions do are made up here, but the coordinator takes them as it takes any site's.
2. Each scene is shown to `look`, by name: tests check it, and `scripts/screenshots.py` takes its picture.
3. Whoever plays it brings the coordinator, with a small real backbone that it can answer with.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from playwright.sync_api import Page, expect
from tests.server.harness import Coordinator, SiteCaller, check, running, settings_for
from tests.server.serving_parts import Arrays, tiny_backbone
from tests.ui.conftest import Place, listening

from pfedbayespt.cli.founding import initial_parameters_file
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.protocol import FederationSpecification, SigningKey, UpdateManifest, tensors
from pfedbayespt.server import ServerRole

NAME: Final = "field-guide"
HOME: Final = f"/ui/federations/{NAME}"
CLASSES: Final = ("bird", "fruit", "tool")
SITES: Final = (("north", "museum-north"), ("south", "museum-south"), ("west", "gardens-west"))
ACCURACY: Final = (0.52, 0.66, 0.74)
DROPPED: Final = 0.58
Look = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """Where it is played."""

    coordinator: Coordinator
    url: str
    backbone: BackboneConfig
    weights: Path

    @property
    def place(self) -> Place:
        """Where a browser finds it."""
        return Place(self.coordinator, self.url)


@contextmanager
def staged(folder: Path) -> Iterator[Stage]:
    """Yield a coordinator without a federation, which can answer with a tiny ViT."""
    weights = folder / "backbones" / "vit"
    backbone = tiny_backbone(weights.parent, weights.name)
    roles = frozenset({ServerRole.COORDINATOR, ServerRole.INFERENCE})
    settings = settings_for(folder / "data", roles=roles, backbone_cache_dir=weights.parent)
    with running(settings) as coordinator, listening(coordinator.http.app) as url:
        yield Stage(coordinator, url, backbone, weights)


@dataclass
class Story:
    """The admin at `page`, and the sites behind the coordinator."""

    page: Page
    stage: Stage
    image: Path
    look: Look
    sites: list[SiteCaller] = field(default_factory=list)

    def play(self) -> None:
        """Play it all."""
        self.create()
        self.put_initial_parameters()
        self.confirm("Activate")
        expect(self.page.get_by_text("active", exact=True).first).to_be_visible()
        for each in SITES:
            self.sites.append(self.invite(*each))
        self.learn()
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
            ("Architecture", self.stage.backbone.architecture),
            ("Digest of the weights", self.stage.backbone.weights_digest),
            ("Image size, pixels", str(self.stage.backbone.image_size_pixels)),
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
        self._put(initial_parameters_file(NAME, self.specification(), self.stage.weights))
        expect(page.get_by_role("link", name="version 0")).to_be_visible()

    def invite(self, site: str, organisation: str) -> SiteCaller:
        """Make a token on the page, and enrol a site with it."""
        page = self.page
        page.goto(f"{HOME}/sites")
        page.get_by_role("textbox", name="Organisation").fill(organisation)
        page.get_by_role("button", name="Make the token").click()
        token = page.get_by_text(re.compile("^enr_")).inner_text()
        self.look("invitation")
        page.get_by_role("link", name="Done").click()
        return self.enrol(token, site)

    def enrol(self, token: str, name: str) -> SiteCaller:
        """Redeem a token as the organisation does."""
        coordinator, key = self.stage.coordinator, SigningKey.generate()
        body = coordinator.enrolment(token, name, key)
        answer = coordinator.anonymous().post("/v1/sites", body, status=201)
        site = SiteCaller(
            coordinator.http, None, answer["site"]["site_id"], NAME, key, answer["coordinator"]["key_id"]
        )
        site.log_in()
        return site

    def learn(self) -> None:
        """Have the round of statistics and three of training, with what the sites say of each version."""
        coordinator = self.stage.coordinator
        coordinator.settle()
        for accuracy in (None, *ACCURACY):
            for site in self.sites:
                coordinator.clock.move(20)
                self.train(site)
            coordinator.settle()
            if accuracy is not None:
                self.report(accuracy)
            coordinator.clock.move(40)

    def watch_a_round(self) -> None:
        """Follow a round while it goes on, find out why an update was refused, pause, resume, and close it."""
        page, coordinator = self.page, self.stage.coordinator
        page.goto(HOME)
        page.get_by_role("link", name="Round 5").click()
        timeline = page.get_by_role("table", name=re.compile("Timeline"))
        expect(timeline.get_by_text("accepted", exact=True)).to_have_count(0)
        for site in self.sites[:2]:
            coordinator.clock.move(25)
            self.train(site)
        expect(timeline.get_by_text("accepted", exact=True)).to_have_count(2)
        coordinator.clock.move(30)
        assert self.send(self.sites[2], 1e9).status_code == 422
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
        self.report(DROPPED)
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

    def specification(self) -> FederationSpecification:
        """What was agreed on."""
        agreed = self.stage.coordinator.admin.get(f"/v1/federations/{NAME}")["specification"]
        return FederationSpecification.model_validate(agreed)

    def train(self, site: SiteCaller) -> None:
        """Send an update that is fine."""
        check(self.send(site, 0.06), 201)

    def send(self, site: SiteCaller, size: float) -> Any:
        """Send an update whose numbers are about that large, and share a direction with the other sites'."""
        round_ = site.assignment()["round"]
        arrays = self.stage.coordinator.parameters(round_["base_version"], NAME)
        facts = {"federation": NAME, "round_id": round_["round_id"], "task": round_["task"]}
        claims = {"base_digest": round_["base_digest"], "num_examples": 120, "metrics": {"loss": 0.8}}
        content = tensors.encode(
            _deltas(arrays, round_, size, self.sites.index(site)), UpdateManifest(**facts, **claims)
        )
        return site.submit_file(round_["round_id"], content)

    def report(self, accuracy: float) -> None:
        """Say how the candidate does at each site."""
        for number, site in enumerate(self.sites):
            version = site.assignment()["model_version"]
            seen = accuracy - 0.03 * number
            metrics = {"accuracy": seen, "nll": 2 - 1.6 * seen, "ece": 0.2 - 0.2 * seen}
            path = f"/v1/federations/{NAME}/model-versions/{version}/evaluations/{site.site_id}"
            check(site.request("PUT", path, json={"num_examples": 60, "metrics": metrics}), 200)
        self.stage.coordinator.settle()

    def _put(self, content: bytes) -> None:
        file = {"name": "version-0.safetensors", "mimeType": "application/octet-stream", "buffer": content}
        self.page.get_by_label("Parameters file").set_input_files(file)  # type: ignore[arg-type]
        self.page.get_by_role("button", name="Yes, put this file").click()


def _deltas(arrays: Arrays, round_: dict[str, Any], size: float, site: int) -> Arrays:
    common = np.random.default_rng([round_["round_number"]])
    own = np.random.default_rng([round_["round_number"], site])
    is_statistics = round_["task"] == "statistics"
    deltas = {}
    for name, array in arrays.items():
        drawn = common.normal(size=array.shape) + 0.8 * own.normal(size=array.shape)
        if is_statistics:
            drawn = np.full_like(array, 0.1)
        counts = name.startswith("statistics.") == is_statistics
        deltas[name] = (size * drawn * counts).astype(array.dtype)
    return deltas
