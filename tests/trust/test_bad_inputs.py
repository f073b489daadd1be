"""Bad inputs meet a clear refusal, never a 5xx, and change nothing."""

import random
from collections import Counter

import pytest
from tests.server.harness import Coordinator, SiteCaller, problem_of
from tests.trust.mutants import IN_FILES, mutants, sent
from tests.trust.nasty_images import HEAVY, MADE, damaged

from pfedbayespt.model.images import ImageError, read_image
from pfedbayespt.protocol import digest_of_bytes
from pfedbayespt.server.auth.guards import active_site
from pfedbayespt.server.blobs import MemoryBlobStore
from pfedbayespt.server.errors import UpdateRejected
from pfedbayespt.server.sites.models import SiteKeyRecord
from pfedbayespt.server.updates import service
from pfedbayespt.server.updates.ingest import check_update


@pytest.fixture
def site(coordinator: Coordinator) -> SiteCaller:
    coordinator.federation(min_sites_to_start=2, quorum=2, num_rounds=1)
    site, _ = coordinator.sites(2)
    coordinator.settle()
    return site


def test_mutants_of_a_valid_update_are_refused_and_the_model_stays_as_it_is(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    """A bounded part; `make bench-trust` sends thousands."""
    round_ = coordinator.live_round()
    content = site.update(round_, 1.0, 10)
    before = coordinator.versions()
    refused: Counter[str] = Counter()
    for mutant in mutants(site, round_["round_id"], content, 150):
        response = sent(site, round_["round_id"], mutant)
        assert 400 <= response.status_code < 500, (mutant.what, mutant.headers, response.text)
        refused[problem_of(response)] += 1
    assert coordinator.versions() == before
    assert coordinator.live_round()["updates_accepted"] == 0
    assert {"update_rejected", "signature_rejected", "invalid_request"} <= set(refused)
    site.train()


def test_two_thousand_mutants_of_an_updates_file_are_refused(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    round_ = coordinator.live_round()
    content = site.update(round_, 1.0, 10)
    with coordinator.context.database.read() as tx:
        caller = active_site(tx.session.get(SiteKeyRecord, site.key.key_id), site.site_id)
        expected = service.expect(tx, caller, round_["round_id"], site.site_id, digest_of_bytes(content))
    draw, store = random.Random(1), MemoryBlobStore()
    reasons: Counter[str] = Counter()
    while reasons.total() < 2_000:
        _, changed = draw.choice(IN_FILES)(draw, content)
        if changed == content:
            continue
        with store.create() as blob:
            blob.write(changed)
            with pytest.raises(UpdateRejected) as refusal:
                check_update(blob, expected)
        reasons[refusal.value.reason] += 1
    assert len(reasons) >= 5, reasons


def test_the_corpus_of_nasty_images_has_at_least_sixty() -> None:
    assert len(MADE) >= 60


@pytest.mark.parametrize("name", sorted(set(MADE) - HEAVY))
def test_a_nasty_image_is_read_or_refused_and_nothing_else(name: str) -> None:
    try:
        image = read_image(MADE[name]())
    except ImageError:
        return
    assert image.mode == "RGB"
    assert max(image.size) <= 10_000


def test_damaged_images_are_read_or_refused_and_nothing_else() -> None:
    outcomes: Counter[bool] = Counter()
    for content in damaged(300):
        try:
            read_image(content)
            outcomes[True] += 1
        except ImageError:
            outcomes[False] += 1
    assert outcomes[False] > 50


def test_a_small_file_that_would_unfold_is_refused_by_its_header() -> None:
    with pytest.raises(ImageError, match="pixels"):
        read_image(MADE["PNG of 13,300 x 13,300"]())
