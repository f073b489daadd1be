"""The blob store and the predictor, with a span around what takes time."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from pfedbayespt.protocol import Digest, PredictionRequest
from pfedbayespt.server.blobs import BlobStore, TemporaryBlob
from pfedbayespt.server.predictions.predictor import NOBODY, Answer, Asker, Predictor, ServableVersion
from pfedbayespt.server.tracing import Tracing


class TracedBlobStore:
    """A blob store whose waits show in traces."""

    def __init__(self, store: BlobStore, tracing: Tracing) -> None:
        self._store = store
        self._span = tracing.span

    def create(self) -> AbstractContextManager[TemporaryBlob]:
        """See `BlobStore`."""
        return self._store.create()

    def put(self, blob: TemporaryBlob) -> None:
        """See `BlobStore`."""
        with self._span("blobs put", {"pfedbayespt.bytes": blob.size_bytes}):
            self._store.put(blob)

    def ping(self) -> None:
        """See `BlobStore`."""
        self._store.ping()

    def check_sound(self) -> None:
        """See `BlobStore`."""
        self._store.check_sound()

    def open(self, digest: Digest, *, verify: bool = False) -> BinaryIO:
        """See `BlobStore`."""
        with self._span("blobs open", {"pfedbayespt.verify": verify}):
            return self._store.open(digest, verify=verify)

    def exists(self, digest: Digest) -> bool:
        """See `BlobStore`."""
        with self._span("blobs exists"):
            return self._store.exists(digest)

    def size_bytes(self, digest: Digest) -> int:
        """See `BlobStore`."""
        with self._span("blobs size"):
            return self._store.size_bytes(digest)

    def delete(self, digest: Digest) -> None:
        """See `BlobStore`."""
        with self._span("blobs delete"):
            self._store.delete(digest)

    def aged(self, seconds: float) -> Iterator[Digest]:
        """See `BlobStore`."""
        return self._store.aged(seconds)

    def delete_if_aged(self, digest: Digest, seconds: float) -> bool:
        """See `BlobStore`."""
        with self._span("blobs delete"):
            return self._store.delete_if_aged(digest, seconds)

    def discard_leftovers(self, seconds: float = 0.0) -> int:
        """See `BlobStore`."""
        return self._store.discard_leftovers(seconds)


class TracedPredictor:
    """A predictor whose computing shows in traces."""

    def __init__(self, predictor: Predictor, tracing: Tracing) -> None:
        self._predictor = predictor
        self._span = tracing.span

    def check_available(self) -> None:
        """See `Predictor`."""
        self._predictor.check_available()

    def forget(self, tenant: str | None) -> int:
        """See `Predictor`."""
        return self._predictor.forget(tenant)

    def prepare(self, version: ServableVersion) -> None:
        """See `Predictor`."""
        self._predictor.prepare(version)

    def predict(self, version: ServableVersion, request: PredictionRequest, asker: Asker = NOBODY) -> Answer:
        """See `Predictor`."""
        with self._span("predict", {"pfedbayespt.model_version": version.number}) as note:
            answer = self._predictor.predict(version, request, asker)
            note({f"pfedbayespt.{step}_seconds": seconds for step, seconds in answer.seconds.items()})
            return answer
