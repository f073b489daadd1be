"""One version of a federation's model, ready to answer."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from pfedbayespt.model.classifier import PromptedClassifier
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.model.images import ImageError, prepare, read_image
from pfedbayespt.model.insertion import Context
from pfedbayespt.model.prediction import derive_seed, draw_noise
from pfedbayespt.model.prediction import predict as predict_with_model
from pfedbayespt.protocol import PredictionRequest, digest_of_bytes
from pfedbayespt.protocol.predictions import Precision
from pfedbayespt.server.errors import ImageRejected, InvalidRequest
from pfedbayespt.server.inference.batching import Encode, alone
from pfedbayespt.server.inference.describing import Asked, describe
from pfedbayespt.server.inference.features import FeatureCache, FeatureKey
from pfedbayespt.server.predictions.predictor import NOBODY, Answer, Asker, ServableVersion


@dataclass(frozen=True)
class Bundle:
    """One verified version on its backbone, ready to answer.

    Attributes:
        version: what it is.
        config: how images are prepared.
        classifier: computes.
        precision: of its trunk.
        arrival: announces an image that comes, and gives what encodes it: alone, or with others.
        features: encoded images that may be asked about again.
    """

    version: ServableVersion
    config: BackboneConfig
    classifier: PromptedClassifier
    precision: Precision = "float32"
    arrival: Callable[[], AbstractContextManager[Encode]] = alone
    features: FeatureCache | None = None

    def answer(self, request: PredictionRequest, asker: Asker = NOBODY) -> Answer:
        """Classify the image.

        Raises:
            ImageRejected: the image is not one that this service reads.
            InvalidRequest: the class prior is not one of the federation's classes.
            InferenceUnavailable: the version's numbers overflow on it.
        """
        watch = _Stopwatch()
        context = self._context(request.image, asker.tenant, watch)
        seed = derive_seed(request.image, self.version.digest) if request.seed is None else request.seed
        noise = draw_noise([seed], request.num_samples, self.classifier.posterior.noise_width)
        predictive = predict_with_model(self.classifier, context, noise, self._class_prior(request))
        asked = Asked(self.version, request, seed, asker.site_id, self.precision)
        prediction = describe(asked, predictive)
        watch.lap("sample")
        return Answer(prediction, watch.seconds)

    def _context(self, image: bytes, tenant: str | None, watch: "_Stopwatch") -> Context:
        """Encode the image, unless the tenant has asked about it before and it is still known."""
        if self.features is None or tenant is None:
            return self._encoded(image, watch)
        key = self._key(image, tenant)
        context = self.features.get(key)
        if context is None:
            context = self._encoded(image, watch)
            self.features.put(key, context)
        else:
            watch.lap("recall")
        return context

    def _key(self, image: bytes, tenant: str) -> FeatureKey:
        insertion = self.classifier.insertion
        return FeatureKey(
            tenant,
            digest_of_bytes(image),
            self.config,
            insertion.config,
            insertion.mid_block,
            insertion.grid_size,
            self.precision,
        )

    def _encoded(self, image: bytes, watch: "_Stopwatch") -> Context:
        with self.arrival() as encode:
            pixels = self._pixels(image)
            watch.lap("decode")
            context = encode(self.classifier, pixels)
            watch.lap("encode")
        return context

    def warm_up(self) -> None:
        """Compute an answer that nobody asked for."""
        side = self.config.image_size_pixels
        context = self.classifier.encode(torch.zeros(1, 3, side, side, device=self.classifier.device))
        predict_with_model(
            self.classifier, context, draw_noise([0], 2, self.classifier.posterior.noise_width)
        )

    def _class_prior(self, request: PredictionRequest) -> torch.Tensor | None:
        if request.class_prior is None:
            return None
        expected = len(self.version.specification.classes)
        if len(request.class_prior) != expected:
            raise InvalidRequest(
                f"class_prior has {len(request.class_prior)} numbers; the federation has {expected} classes"
            )
        shares = torch.tensor(request.class_prior, dtype=torch.float64)
        return shares / shares.sum()

    def _pixels(self, image: bytes) -> torch.Tensor:
        try:
            return prepare(read_image(image), self.config)[None].to(self.classifier.device)
        except ImageError as error:
            raise ImageRejected(str(error)) from error


class _Stopwatch:
    """Tells how long each step took, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now
