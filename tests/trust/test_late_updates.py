"""An asynchronous federation with a server optimiser: stale updates too are verified and recomputed offline."""

from pathlib import Path

from tests.contracts.test_late_updates import prepared
from tests.server.harness import check
from tests.trust.world import history

from pfedbayespt.cli.audit.archive import Archive
from pfedbayespt.cli.audit.rebuilding import rebuild
from pfedbayespt.cli.audit.verification import Audit

MODE = {
    "num_rounds": 3,
    "evaluate": False,
    "late_policy": "buffer",
    "asynchronous": {"buffer_size": 2},
    "aggregation": {"rule": "fedadam"},
}


def test_a_version_of_stale_updates_is_verified_and_computed_again(tmp_path: Path) -> None:
    with history(tmp_path / "data", rounds_played=1, **MODE) as past:
        *quick, slow = past.sites
        late = prepared(slow, 0.5)
        for site in quick:
            site.train(0.25)
        past.coordinator.settle()
        assert check(slow.submit_file(*late), 201)["staleness"] == 1
        quick[0].train(-0.25)
        past.coordinator.settle()
        archive = past.export(tmp_path / "export")
    assert sum(part.weight for part in archive.versions[-1].inputs) < 1.0
    assert list(Audit(Archive.read(tmp_path / "export")).problems()) == []
    for version in archive.versions[1:]:
        assert rebuild(archive, version.version_number) == version.digest
