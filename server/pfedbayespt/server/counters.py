"""What one process counts while it works; `metrics` shows it. Labels are words of this module, so bounded."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from pfedbayespt.server.blobs import BlobCorruptError, BlobMissingError
from pfedbayespt.server.errors import StorageUnavailable

BUCKETS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FAILURES: Final = {
    BlobMissingError: "missing",
    BlobCorruptError: "damaged",
    StorageUnavailable: "unavailable",
}


class Counters:
    """Counts of one process, from its start on."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.acknowledgement = Histogram(
            "pfedbayespt_acknowledgement_seconds",
            "From an update's headers to its receipt, durable",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.storage = Histogram(
            "pfedbayespt_storage_seconds",
            "Time to make a tensor file durable: fsync and rename, or the upload",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.database_busy = Counter(
            "pfedbayespt_database_busy",
            "Requests that were sent away because the database did not answer in time",
            registry=self.registry,
        )
        self.aggregations_repeated = Counter(
            "pfedbayespt_aggregations_repeated",
            "Aggregations begun although one had begun before: it died, failed or found damage",
            registry=self.registry,
        )
        self.storage_failures = Counter(
            "pfedbayespt_storage_failures",
            "Tensor files found missing or damaged, and times that their store did not answer",
            ("kind",),
            registry=self.registry,
        )
        for kind in _FAILURES.values():
            self.storage_failures.labels(kind)  # shown as 0 until it happens

    def note_storage_failure(self, error: Exception) -> None:
        """Count an error of a blob store; any other error is not counted."""
        kind = _FAILURES.get(type(error))
        if kind is not None:
            self.storage_failures.labels(kind).inc()
