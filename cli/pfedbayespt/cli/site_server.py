"""A site's own inference server: the coordinator's, on the SDK's verified versions and personal parameters.

Rules:
1. The version that serves is looked up at the coordinator every `refresh_seconds`, loaded whole, then swapped in by
   replacing one reference; a request holds one version. A coordinator that is out of reach changes nothing.
2. Personal parameters, and the site's class prior where it belongs into its predictions, are those of
   `site predict`: both give the same numbers.
3. Who can reach the loopback interface may ask. On any other address a token is needed.
"""

import logging
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import uvicorn
from fastapi import FastAPI

from pfedbayespt.client import Site
from pfedbayespt.client.errors import NoServingVersion as NoServingVersionThere
from pfedbayespt.client.errors import NotFound as NotFoundThere
from pfedbayespt.client.errors import PFedBayesPTError
from pfedbayespt.client.predictor import LocalPredictor
from pfedbayespt.protocol import PredictionRequest
from pfedbayespt.server import logs
from pfedbayespt.server.auth import AdminCaller, Caller
from pfedbayespt.server.errors import (
    AuthenticationRequired,
    InferenceUnavailable,
    NoServingVersion,
    NotFound,
)
from pfedbayespt.server.inference import Bundle, return_large_blocks, share_cores
from pfedbayespt.server.predictions.admission import Admission
from pfedbayespt.server.predictions.endpoints import Predictions
from pfedbayespt.server.predictions.predictor import NOBODY, Answer, Asker, ServableVersion
from pfedbayespt.server.predictions.standalone import create_app

MAX_IMAGE_BYTES = 10_000_000
_KEPT_BUNDLES = 4
_MAX_RUNNING, _MAX_WAITING = 2, 32

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Ready:
    """A bundle, and what is personal about its answers."""

    bundle: Bundle
    class_prior: tuple[float, ...] | None
    site_id: str | None

    @classmethod
    def around(cls, predictor: LocalPredictor, specification_digest: str) -> "_Ready":
        model = predictor.model
        version = ServableVersion(
            federation=predictor.federation,
            specification=model.specification,
            specification_digest=specification_digest,
            number=predictor.model_version,
            digest=predictor.model_digest,
            calibration=predictor.calibration,
        )
        prior = predictor.class_prior
        bundle = Bundle(version, model.backbone_config, model.classifier.eval())
        return cls(bundle, None if prior is None else tuple(prior.double().tolist()), predictor.site_id)


class SiteInference:
    """The `Versions` and the `Predictor` of one site; safe to use from several threads."""

    def __init__(self, site: Site, *, offline: bool = False) -> None:
        self._site = site
        self._offline = offline
        self._loading = threading.Lock()
        self._ready: dict[str, _Ready] = {}  # by digest, the last few; never changed, only replaced
        self._serving: _Ready | None = None

    @property
    def is_ready(self) -> bool:
        """Whether a version is loaded."""
        return self._serving is not None

    def refresh(self) -> None:
        """Swap in the version that serves now, with the personal parameters as they are now.

        Raises:
            PFedBayesPTError: it cannot be had; what served before serves on.
        """
        self._serving = self._load(None)

    def check_visible(self, caller: Caller, name: str) -> None:  # noqa: ARG002 - one federation, one kind of caller
        """Return if `name` is the site's federation."""
        if name != self._site.federation:
            raise NotFound(f"this site is part of {self._site.federation!r}; there is no {name!r} here")

    def to_answer(self, caller: Caller, name: str, number: int | None) -> ServableVersion:
        """Return the version of that number, or the serving one."""
        self.check_visible(caller, name)
        try:
            ready = (self._serving or self._load(None)) if number is None else self._load(number)
        except NoServingVersionThere as error:
            raise NoServingVersion(str(error)) from error
        except NotFoundThere as error:
            raise NotFound(str(error)) from error
        except PFedBayesPTError as error:
            raise InferenceUnavailable(f"the version cannot be had now: {error}") from error
        version = ready.bundle.version
        if number not in {None, version.number}:
            raise NotFound(f"without the coordinator there is only version {version.number} here")
        return version

    def check_available(self) -> None:
        """Return: predictions are computed here."""

    def prepare(self, version: ServableVersion) -> None:
        """Load nothing: `refresh` does."""

    def forget(self, tenant: str | None) -> int:  # noqa: ARG002
        """Forget nothing: no images are kept."""
        return 0

    def predict(
        self,
        version: ServableVersion,
        request: PredictionRequest,
        asker: Asker = NOBODY,  # noqa: ARG002 - whoever asks, the answer is this site's
    ) -> Answer:
        """Answer with a version that `to_answer` named."""
        ready = self._ready.get(version.digest)
        if ready is None:
            raise InferenceUnavailable(f"version {version.number} was swapped out meanwhile; ask again")
        if request.class_prior is None and ready.class_prior is not None:
            request = request.model_copy(update={"class_prior": ready.class_prior})
        return ready.bundle.answer(request, Asker(ready.site_id))

    def _load(self, number: int | None) -> _Ready:
        with self._loading:
            predictor = self._site.predictor(model_version=number, offline=self._offline)
            known = self._ready.get(predictor.model_digest)
            if known is not None and known.bundle.classifier is predictor.model.classifier:
                return known
            ready = _Ready.around(predictor, self._site.specification_digest)
            others = {key: old for key, old in self._ready.items() if key != predictor.model_digest}
            kept = list(others.items())[-(_KEPT_BUNDLES - 1) :]
            self._ready = dict([*kept, (predictor.model_digest, ready)])
            return ready


def create_site_app(inference: SiteInference, token: str | None) -> FastAPI:
    """Return the application that answers with `inference`; `token` None: to anybody who reaches it."""
    share_cores(_MAX_RUNNING)
    return_large_blocks()
    predictions = Predictions(inference, inference, Admission(_MAX_RUNNING, _MAX_WAITING), MAX_IMAGE_BYTES)
    return create_app(predictions, partial(_identify, token), lambda: inference.is_ready)


def listen(app: FastAPI, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; then finish what is under way."""
    logs.configure_process()
    uvicorn.run(
        app,
        http="h11",  # as the coordinator's
        loop="asyncio",
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
    )


@contextmanager
def refreshing(inference: SiteInference, every_seconds: float) -> Iterator[None]:
    """Keep the serving version up to date until the block ends."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(every_seconds):
            try:
                inference.refresh()
            except PFedBayesPTError as error:
                logger.warning("the version that serves could not be looked up: %s", error)

    thread = threading.Thread(target=work, name="refresh", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)


def _identify(token: str | None, sent: str | None) -> Caller:
    if token is not None and not secrets.compare_digest((sent or "").encode(), token.encode()):
        raise AuthenticationRequired("send the header `Authorization: Bearer <the token of this server>`")
    return AdminCaller(actor="local")
