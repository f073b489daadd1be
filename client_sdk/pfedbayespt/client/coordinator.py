"""The coordinator's HTTP API, one typed method per operation."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from pfedbayespt.client.connection import Connection, Credential, parse, segment, to_json
from pfedbayespt.client.errors import ProblemError
from pfedbayespt.client.resources.federations import Federations
from pfedbayespt.client.resources.model_versions import ModelVersions
from pfedbayespt.client.resources.organisations import Organisations
from pfedbayespt.client.resources.rounds import Rounds
from pfedbayespt.client.resources.sites import Sites
from pfedbayespt.client.resources.trials import Trials
from pfedbayespt.client.resources.updates import Updates
from pfedbayespt.client.transport import HttpxTransport, Timeouts, Transport
from pfedbayespt.protocol import (
    IDENTITY_PATH,
    AccessToken,
    BatchRequest,
    CoordinatorIdentity,
    Event,
    FeaturesForgotten,
    Prediction,
    PredictionBatch,
    PredictionOptions,
)

_IMAGE_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"RIFF", "image/webp"),
)


class CoordinatorClient:
    """A coordinator, seen with one credential. Safe to use from several threads; close it when done.

    Args:
        base_url: the coordinator's address, such as `https://coordinator.example`.
        credential: the admin token, an API key, or a `SiteIdentity`; None for what needs none.
        timeouts: how long to wait for what, retries included (`pfedbayespt.client.Timeouts`).
        proxy: address of an HTTP proxy; None: the usual environment variables.
        ca_file: PEM file of certificate authorities to trust instead of the usual ones.
        transport: sends requests in place of httpx; `proxy` and `ca_file` then have no effect.

    Every method raises a `ProblemError` when the coordinator refuses and a `TransportError` when it cannot be
    reached or understood.
    """

    def __init__(
        self,
        base_url: str,
        credential: Credential = None,
        *,
        timeouts: Timeouts | None = None,
        proxy: str | None = None,
        ca_file: Path | str | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._own_transport: HttpxTransport | None = None
        if transport is None:
            trusted = None if ca_file is None else Path(ca_file)
            transport = self._own_transport = HttpxTransport(proxy=proxy, ca_file=trusted)
        self._connection = Connection(base_url, credential, transport, timeouts or Timeouts())
        self.federations = Federations(self._connection)
        self.organisations = Organisations(self._connection)
        self.sites = Sites(self._connection)
        self.rounds = Rounds(self._connection)
        self.updates = Updates(self._connection)
        self.model_versions = ModelVersions(self._connection)
        self.trials = Trials(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def with_timeouts(self, timeouts: Timeouts) -> "CoordinatorClient":
        """Return a client over the same connections that waits differently; closing it closes nothing."""
        connection = self._connection
        return CoordinatorClient(
            connection.base_url, connection.credential, timeouts=timeouts, transport=connection.transport
        )

    def close(self) -> None:
        """Close the connections."""
        if self._own_transport is not None:
            self._own_transport.close()

    def predict(
        self,
        federation: str,
        image: bytes,
        *,
        num_samples: int | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        model_version: int | None = None,
    ) -> Prediction:
        """Classify one JPEG, PNG or WEBP file. None leaves an option at the coordinator's default."""
        answer = self._connection.send(
            "POST",
            f"/v1/federations/{segment(federation)}/predictions",
            query={
                "num_samples": num_samples,
                "top_k": top_k,
                "seed": seed,
                "model_version": model_version,
            },
            body=image,
            media_type=_media_type(image),
            idempotent=True,  # an answer depends on the request alone
        )
        return parse(answer, Prediction)

    def predict_batch(
        self, federation: str, images: Sequence[bytes], options: PredictionOptions | None = None
    ) -> PredictionBatch:
        """Classify several JPEG, PNG or WEBP files with one version; each is answered or refused by itself."""
        asked = BatchRequest(images=tuple(images), **(options or PredictionOptions()).model_dump())
        answer = self._connection.send(
            "POST",
            f"/v1/federations/{segment(federation)}/predictions/batch",
            body=to_json(asked),
            media_type="application/json",
            idempotent=True,  # answers depend on the request alone
        )
        return parse(answer, PredictionBatch)

    def forget_features(self) -> FeaturesForgotten:
        """Have the process that answers forget what it keeps of the images that this organisation asked about.

        An admin's call forgets everybody's.
        """
        return parse(self._connection.send("DELETE", "/v1/feature-cache"), FeaturesForgotten)

    def identity(self) -> CoordinatorIdentity:
        """Return the coordinator's public key, as whoever answers at this address tells it."""
        return self._connection.get(IDENTITY_PATH, CoordinatorIdentity)

    def access_token(self, assertion: str) -> AccessToken:
        """Exchange a site's assertion for an access token; a client with a `SiteIdentity` does so by itself."""
        return self._connection.exchange(assertion)

    def events(self, federation: str) -> Iterator[Event]:
        """Yield the federation's state changes, oldest first."""
        return self._connection.pages(f"/v1/federations/{segment(federation)}/events", Event)

    def clock_ahead_seconds(self) -> float | None:
        """Return how far this machine's clock is ahead of the coordinator's, to a second; None: it does not say."""
        anonymous = replace(self._connection, credential=None)
        told = anonymous.send("GET", "/livez").headers.get("date")
        if told is None:
            return None
        return (datetime.now(UTC) - parsedate_to_datetime(told)).total_seconds()

    def is_ready(self) -> bool:
        """Whether the coordinator answers and is ready for work; never waits for it to become so."""
        try:
            self._connection.send("GET", "/readyz", idempotent=False)
        except ProblemError:
            return False
        return True


def _media_type(image: bytes) -> str:
    """Return the media type of an image file, told by its first bytes."""
    for signature, media_type in _IMAGE_SIGNATURES:
        if image.startswith(signature):
            return media_type
    return "application/octet-stream"
