"""What the pages draw, against answers that are known beforehand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from tests import messages as examples
from tests.server.harness import Coordinator, deltas

from pfedbayespt.protocol import (
    ModelVersion,
    ModelVersionStatus,
    Round,
    RoundStatus,
    Site,
    Update,
    UpdateManifest,
    UpdateStatus,
    tensors,
)
from pfedbayespt.server.blobs import MemoryBlobStore
from pfedbayespt.server.ui.geometry import directions_of, norms_and_cosines
from pfedbayespt.server.ui.lineage import lineage_of
from pfedbayespt.server.ui.series import curves_of
from pfedbayespt.server.ui.timeline import timeline_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_norms_and_cosines_are_those_of_the_vectors() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 40))
    mean = vectors.mean(axis=0)
    for vector, (norm, cosine) in zip(vectors, norms_and_cosines(vectors @ vectors.T), strict=True):
        assert norm == pytest.approx(np.linalg.norm(vector))
        assert cosine == pytest.approx(vector @ mean / np.linalg.norm(vector) / np.linalg.norm(mean))


def test_an_update_of_zeros_has_no_direction() -> None:
    assert norms_and_cosines(np.zeros((1, 1))) == [(0.0, None)]
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])  # their mean is zero
    assert norms_and_cosines(opposite) == [(1.0, None), (1.0, None)]


def test_directions_are_read_from_the_stored_files() -> None:
    blobs = MemoryBlobStore()
    updates = [stored(blobs, value, f"sit_{index}") for index, value in enumerate((2.0, 1.0, -1.0))]
    found = directions_of(blobs, updates)
    assert found is not None
    ones = np.sqrt(15.0)  # head.bias and head.weight hold 15 numbers
    assert [each.norm for each in found] == pytest.approx([2 * ones, ones, ones])
    assert [each.cosine for each in found] == pytest.approx([1.0, 1.0, -1.0])


def test_without_files_there_is_no_picture() -> None:
    assert directions_of(MemoryBlobStore(), [examples.UPDATE]) is None
    assert directions_of(MemoryBlobStore(), []) is None


def stored(blobs: MemoryBlobStore, value: float, site_id: str) -> Update:
    manifest = UpdateManifest(
        federation="alpha",
        round_id="rnd_1",
        task="training",
        base_digest="sha256:" + "0" * 64,
        num_examples=1,
    )
    with blobs.create() as blob:
        blob.write(tensors.encode(deltas("training", value), manifest))
        blobs.put(blob)
        return examples.UPDATE.model_copy(
            update={"digest": blob.digest, "size_bytes": blob.size_bytes, "site_id": site_id}
        )


def version(number: int, parent: int | None, status: str = "retired") -> ModelVersion:
    return examples.MODEL_VERSION.model_copy(
        update={
            "version_number": number,
            "parent_version": parent,
            "status": ModelVersionStatus(status),
            "evaluations": (),
        }
    )


def test_a_line_goes_on_and_a_held_version_and_a_rollback_leave_it() -> None:
    picture = lineage_of(
        [version(4, 1, "serving"), version(3, 2, "held"), version(2, 1), version(1, 0), version(0, None)]
    )
    rows = {node.version.version_number: node.y for node in picture.nodes}
    assert rows[0] == rows[1] == rows[2]
    assert len({rows[2], rows[3], rows[4]}) == 3
    assert {
        (edge.start.version.version_number, edge.end.version.version_number) for edge in picture.edges
    } == {
        (0, 1),
        (1, 2),
        (2, 3),
        (1, 4),
    }
    assert all(node.x < picture.width and node.y < picture.height for node in picture.nodes)


def test_no_versions_make_an_empty_picture() -> None:
    assert lineage_of([]).nodes == ()


def test_curves_have_gaps_where_a_site_reports_nothing(furnished: Coordinator) -> None:
    page = furnished.admin.get("/v1/federations/alpha/model-versions")
    versions = [ModelVersion.model_validate(item) for item in page["items"]]
    curves = {curve.metric: curve for curve in curves_of(versions)}
    assert set(curves) == {"accuracy", "nll", "ece"}
    assert curves["accuracy"].versions == (2, 3, 4)
    assert curves["accuracy"].sites == ("north", "south", "west")
    assert curves["accuracy"].rows[0][1][0] == pytest.approx(0.41)
    silent = [each.model_copy(update={"evaluations": each.evaluations[:1]}) for each in versions[:1]]
    (first, *_) = curves_of(silent + versions[1:])
    assert [row.count(None) for row in first.values].count(1) == 2


def of_round(**changes: Any) -> Round:
    facts = {"cohort": ("sit_1",), "started_at": NOON, "finished_at": None, "status": RoundStatus.COLLECTING}
    return examples.ROUND.model_copy(update=facts | changes)


def site(last_seen: datetime | None = None) -> Site:
    return examples.SITE.model_copy(update={"site_id": "sit_1", "last_seen_at": last_seen})


def update(status: UpdateStatus, minutes: float, verdict: str | None = None) -> Update:
    changes = {"site_id": "sit_1", "status": status, "verdict": verdict}
    return examples.UPDATE.model_copy(update=changes | {"received_at": NOON + timedelta(minutes=minutes)})


@pytest.mark.parametrize(
    ("round_", "seen", "updates", "uploading", "state"),
    [
        (of_round(), None, [], (), "asked"),
        (of_round(), NOON + timedelta(seconds=1), [], (), "training"),
        (of_round(), NOON, [], ("sit_1",), "uploading"),
        (of_round(), NOON, [update(UpdateStatus.ACCEPTED, 5)], (), "accepted"),
        (of_round(), NOON, [update(UpdateStatus.QUARANTINED, 5, "not finite")], (), "quarantined"),
        (of_round(status=RoundStatus.PUBLISHED), NOON, [], (), "nothing came"),
    ],
)
def test_a_lane_says_where_its_site_stands(
    round_: Round, seen: datetime | None, updates: list[Update], uploading: tuple[str, ...], state: str
) -> None:
    now = NOON + timedelta(minutes=10)
    (lane,) = timeline_of(round_, {"sit_1": site(seen)}, updates, [], uploading, now).lanes
    assert lane.state == state
    assert 0.0 <= lane.worked_until <= 1.0


def test_a_corrected_update_counts_and_the_refused_one_stays_to_be_seen() -> None:
    updates = [update(UpdateStatus.QUARANTINED, 2, "not finite"), update(UpdateStatus.ACCEPTED, 6)]
    now = NOON + timedelta(minutes=10)
    (lane,) = timeline_of(of_round(), {"sit_1": site()}, updates, [], (), now).lanes
    assert [mark.kind for mark in lane.marks] == ["quarantined", "accepted"]
    assert lane.marks[0].note == "not finite"
    assert lane.took == timedelta(minutes=6)
    assert lane.marks[0].at == pytest.approx(lane.marks[1].at / 3)
