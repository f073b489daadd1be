"""Sites without images: all that a site does at the coordinator, through the SDK, with updates that are drawn.

The delta of tensor k by site i in round r is what is drawn from the seed (i, k), times a factor of r: so every
payload is unique and costs little, the mean is known, and a repeated request carries the same bytes.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pfedbayespt.client import CoordinatorClient, ProblemError, Timeouts, TransportError
from pfedbayespt.client.authentication import SiteIdentity
from pfedbayespt.protocol import (
    Assignment,
    BackboneSpecification,
    Evaluation,
    FederationSpecification,
    ParametersManifest,
    Receipt,
    Round,
    RoundPolicy,
    RoundTask,
    SigningKey,
    SiteAction,
    UpdateManifest,
    digest_of_bytes,
    tensors,
)

FEDERATION = "synthetic"
NUM_EXAMPLES = 100
Arrays = dict[str, Any]


def specification(num_sites: int, **policy: Any) -> FederationSpecification:
    """Return terms under which every round waits for every site."""
    rounds = {"num_rounds": 10_000, "min_sites_to_start": num_sites, "quorum": num_sites, "evaluate": False}
    return FederationSpecification(
        classes=("a", "b"),
        backbone=BackboneSpecification(
            architecture="none", weights_digest=digest_of_bytes(b"none"), image_size_pixels=32
        ),
        rounds=RoundPolicy(**(rounds | policy)),
    )


def blank_parameters(megabytes: float, num_tensors: int = 4) -> Arrays:
    """Return float32 tensors of that size in all, and the statistics that every federation has."""
    elements = max(1, int(megabytes * 1e6 / 4 / num_tensors))
    arrays: Arrays = {f"generator.{number}": np.zeros(elements, np.float32) for number in range(num_tensors)}
    return arrays | {"statistics.mean": np.zeros(4, np.float32)}


def found(admin: CoordinatorClient, terms: FederationSpecification, arrays: Arrays) -> None:
    """Create and activate the federation."""
    create(admin, terms, arrays)
    admin.federations.activate(FEDERATION)


def create(admin: CoordinatorClient, terms: FederationSpecification, arrays: Arrays) -> None:
    """Create the federation with its initial parameters: sites can join, no round begins."""
    federation = admin.federations.create(FEDERATION, terms)
    manifest = ParametersManifest(
        federation=FEDERATION, specification_digest=federation.specification_digest, version_number=0
    )
    admin.federations.upload_initial_parameters(FEDERATION, tensors.encode(arrays, manifest))


def draws(arrays: Arrays, site: int) -> Arrays:
    """Return the numbers of a site, uniform in [-0.5, 0.5), of the types and shapes of `arrays`."""
    return {
        name: _drawn((site, index), array).astype(array.dtype, copy=False)
        for index, (name, array) in enumerate(sorted(arrays.items()))
    }


def _drawn(seed: tuple[int, int], like: Any) -> Any:
    return np.random.default_rng(seed).random(like.shape, dtype=np.float32) - np.float32(0.5)


def deltas(drawn: Arrays, round_number: int, task: RoundTask) -> Arrays:
    """Return what the site of these numbers submits in the round: zero where the task touches nothing."""
    factor = np.float32((round_number % 97 + 1) / 97)
    return {
        name: numbers * factor if task.touches(name) else np.zeros_like(numbers)
        for name, numbers in drawn.items()
    }


def mean_delta(all_drawn: Sequence[Arrays], round_number: int, task: RoundTask) -> Arrays:
    """Return the mean of what the sites of these numbers submit, in float64."""
    submitted = [deltas(drawn, round_number, task) for drawn in all_drawn]
    return {
        name: np.mean([each[name] for each in submitted], axis=0, dtype=np.float64) for name in all_drawn[0]
    }


@dataclass
class SyntheticSite:
    """One site."""

    number: int
    url: str
    drawn: Arrays
    identity: SiteIdentity
    client: CoordinatorClient
    receipts: dict[str, Receipt] = field(default_factory=dict)
    retries: int = 0
    downloads: bool = False  # fetch the base version before each update, as a site that trains does

    @classmethod
    def enrol(
        cls, admin: CoordinatorClient, url: str, number: int, arrays: Arrays, timeouts: Timeouts | None = None
    ) -> "SyntheticSite":
        """Redeem a fresh token with a fresh key."""
        token = admin.federations.create_enrolment_token(FEDERATION, "synthetics").token
        key = SigningKey.generate()
        with CoordinatorClient(url) as nobody:
            coordinator = nobody.identity()
            site = nobody.sites.enrol(token, f"site-{number}", key, coordinator.key_id).site
        identity = SiteIdentity(site.site_id, key, coordinator.key_id)
        client = CoordinatorClient(url, identity, timeouts=timeouts)
        return cls(number, url, draws(arrays, number), identity, client)

    def live(self, is_over: Callable[[Assignment], bool]) -> None:
        """Do what the assignments ask until one of them is the last, trying again whatever fails."""
        while True:
            try:
                assignment = self.client.sites.assignment()
                if is_over(assignment):
                    return
                if not self.act(assignment):
                    time.sleep(assignment.retry_after_seconds)
            except (TransportError, ProblemError) as error:
                if isinstance(error, ProblemError) and error.status not in {409, 429, 500, 503}:
                    raise
                self.retries += 1
                time.sleep(0.05)

    def act(self, assignment: Assignment) -> bool:
        """Do what is asked, and return whether there was anything."""
        round_ = assignment.round
        if assignment.action == SiteAction.TRAIN and round_ is not None:
            if self.downloads and assignment.model_version is not None:
                self.client.model_versions.download(
                    assignment.federation, assignment.model_version, round_.base_digest
                )
            self.submit(round_)
        elif assignment.action == SiteAction.EVALUATE and assignment.model_version is not None:
            report = Evaluation(num_examples=5, metrics={"accuracy": 0.5})
            self.client.model_versions.report_evaluation(
                assignment.federation, assignment.model_version, self.identity.site_id, report
            )
        else:
            return False
        return True

    def submit(self, round_: Round) -> None:
        """Submit the site's update of the round, and keep the receipt."""
        manifest = UpdateManifest(
            federation=round_.federation,
            round_id=round_.round_id,
            task=round_.task,
            base_digest=round_.base_digest,
            num_examples=NUM_EXAMPLES,
        )
        content = tensors.encode(deltas(self.drawn, round_.round_number, round_.task), manifest)
        statement = self.identity.statement(manifest, digest_of_bytes(content))
        receipt = self.client.updates.submit(statement, content)
        known = self.receipts.setdefault(round_.round_id, receipt)
        if known.update_id != receipt.update_id:
            raise AssertionError(f"two receipts for round {round_.round_number}: {known}, {receipt}")


def live_together(sites: Sequence[SyntheticSite], is_over: Callable[[Assignment], bool]) -> None:
    """Let the sites live, each in a thread of its own; raise what any of them raised."""
    errors: list[BaseException] = []

    def live(site: SyntheticSite) -> None:
        try:
            site.live(is_over)
        except BaseException as error:  # noqa: BLE001  (raised again below)
            errors.append(error)

    threads = [threading.Thread(target=live, args=(site,), daemon=True) for site in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
