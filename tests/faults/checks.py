"""What must hold after whatever happened, read from the rows and the files themselves.

P1  every receipt that a site holds is an update in the rows: accepted in a live round, aggregated and among its
    round's frozen inputs, or discarded with a recorded reason
P2  a round has one version at most, exactly one if it was published or held, and its inputs are the updates that
    are marked as aggregated
P3  a version's file has its digest, and is what a second implementation computes from the recorded inputs and the
    files that the sites hold: theta + sum_i w_i delta_i, in float64, in digest order
P7  the chain of events is whole
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import text
from tests.faults.arena import Ledger
from tests.faults.tally import Tally

from pfedbayespt.protocol import ParametersManifest, canonical_json, digest_of_bytes, tensors
from pfedbayespt.server.database import Database
from pfedbayespt.server.events import repository as event_log
from pfedbayespt.server.events.service import first_broken

_INPUTS = """
    SELECT u.id AS update_id, u.site_id, u.digest, u.num_examples, i.weight FROM round_inputs i
    JOIN updates u ON u.id = i.update_id WHERE i.round_id = :round ORDER BY i.position
"""
_VERSIONS = """
    SELECT v.id, v.number, v.digest, v.size_bytes, v.round_id, v.status, p.digest AS parent
    FROM model_versions v LEFT JOIN model_versions p ON p.id = v.parent_id ORDER BY v.number
"""
_LIVE = {"pending", "collecting", "aggregating", "evaluating"}


class Auditor:
    """Reads a coordinator's database and folder, and remembers which versions it has recomputed."""

    def __init__(self, database_url: str, folder: Path, ledger: Ledger) -> None:
        self._database = Database(database_url)
        self._folder = folder
        self._ledger = ledger
        self._sound: set[str] = set()
        self.num_lost = 0
        self.num_twice = 0

    def check(self) -> None:
        """Check all of it; AssertionError says what does not hold."""
        self._check_updates()
        self._check_rounds()
        self._check_versions()
        self._check_events()

    def rows(self, query: str, **values: Any) -> list[dict[str, Any]]:
        """Return a query's rows."""
        with self._database.read() as tx:
            return [dict(row) for row in tx.session.execute(text(query), values).mappings()]

    def enter_into(self, tally: Tally) -> None:
        """Add to the account what was found, and close the connections."""
        tally.acknowledged_updates += len(self._ledger.receipts)
        tally.acknowledged_lost += self.num_lost
        tally.rounds_aggregated_twice += self.num_twice
        tally.rounds_closed += len(self.rows("SELECT id FROM events WHERE action = 'round.closed'"))
        self._database.close()

    def _check_updates(self) -> None:
        rounds = {row["id"]: row["status"] for row in self.rows("SELECT id, status FROM rounds")}
        updates = {row["id"]: row for row in self.rows("SELECT * FROM updates")}
        inputs = {row["update_id"]: row["round_id"] for row in self.rows("SELECT * FROM round_inputs")}

        def is_kept(receipt: dict[str, Any]) -> bool:
            row = updates.get(receipt["update_id"])
            if row is None or (row["digest"], row["site_id"]) != (receipt["digest"], receipt["site_id"]):
                return False
            match row["status"]:
                case "accepted":
                    return rounds[row["round_id"]] in _LIVE
                case "aggregated":
                    return inputs.get(row["id"]) == row["round_id"]
                case "discarded":
                    return bool(row["verdict"])
            return False

        lost = [receipt for receipt in self._ledger.receipts.values() if not is_kept(receipt)]
        self.num_lost = len(lost)
        assert not lost

    def _check_rounds(self) -> None:
        versions = Counter(row["round_id"] for row in self.rows(_VERSIONS) if row["round_id"])
        claims = Counter(
            row["subject"]
            for row in self.rows("SELECT subject FROM events WHERE action = 'round.aggregated'")
        )
        twice = {round_ for count in (versions, claims) for round_, times in count.items() if times > 1}
        self.num_twice = len(twice)
        assert not twice
        statuses = {row["id"]: row["status"] for row in self.rows("SELECT id, status FROM rounds")}
        done = {round_ for round_, status in statuses.items() if status in {"published", "held"}}
        assert done <= set(versions)
        assert sum(status in _LIVE for status in statuses.values()) <= 1
        orphans = """SELECT u.id FROM updates u LEFT JOIN round_inputs i ON i.update_id = u.id
                     WHERE u.status = 'aggregated' AND i.update_id IS NULL"""
        assert not self.rows(orphans)

    def _check_versions(self) -> None:
        versions = self.rows(_VERSIONS)
        assert [row["number"] for row in versions] == list(range(len(versions)))
        assert sum(row["status"] == "serving" for row in versions) == min(1, len(versions))
        for version in versions:
            if version["id"] not in self._sound:
                self._check_version(version)
                self._sound.add(version["id"])

    def _check_version(self, version: dict[str, Any]) -> None:
        content = self._blob(version["digest"])
        assert digest_of_bytes(content) == version["digest"]
        assert len(content) == version["size_bytes"]
        if version["round_id"] is None:
            return
        inputs = self.rows(_INPUTS, round=version["round_id"])
        digests = [part["digest"] for part in inputs]
        assert inputs
        assert digests == sorted(digests)
        manifest = ParametersManifest.model_validate_json(tensors.decode(content)[0])
        assert manifest.version_number == version["number"]
        assert manifest.parent_digest == version["parent"]
        assert manifest.inputs_digest == digest_of_bytes(canonical_json({"inputs": inputs}))
        assert digest_of_bytes(self._recomputed(version["parent"], inputs, manifest)) == version["digest"]

    def _recomputed(self, parent: str, inputs: list[dict[str, Any]], manifest: ParametersManifest) -> bytes:
        theta = tensors.decode(self._blob(parent))[1]
        deltas = [tensors.decode(self._ledger.content(part["digest"]))[1] for part in inputs]
        moved = {}
        for name, base in theta.items():
            change = np.zeros(base.shape)
            for part, delta in zip(inputs, deltas, strict=True):
                change += delta[name].astype(np.float64) * part["weight"]
            moved[name] = (base + change).astype(base.dtype)
        return tensors.encode(moved, manifest)

    def _blob(self, digest: str) -> bytes:
        digits = digest.removeprefix("sha256:")
        return (self._folder / "blobs" / "sha256" / digits[:2] / digits).read_bytes()

    def _check_events(self) -> None:
        with self._database.read() as tx:
            for (federation_id,) in tx.session.execute(text("SELECT id FROM federations")):
                events = event_log.of_federation(tx, federation_id)
                assert events
                assert first_broken(events) is None
