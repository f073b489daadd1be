"""Predictions with torch: the one module of the server that knows it, and the model package.

Rules:
1. An answer comes from one bundle: a version's parameters, checked against its digest and its own manifest, on the
   backbone whose digest the federation agreed to. Bundles are immutable; a request holds one and never mixes (P4).
2. A version is loaded by the first request that needs it, while others go on with theirs, and comes to light whole,
   by replacing one reference. The last few are kept, so that a rollback costs nothing.
3. If the version that should serve cannot be loaded, the one that served before answers on, and its number says so.
4. A backbone is found by the SHA-256 of its file, whatever its name, in one folder; nothing is ever downloaded.
5. The same image, options and version give the same bytes: the default seed is derived from them.
"""

import hashlib
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import torch

from pfedbayespt.model.backbone import Backbone, choose_device, load_backbone
from pfedbayespt.model.classifier import PromptedClassifier, build_classifier
from pfedbayespt.model.config import BackboneConfig, ModelConfig
from pfedbayespt.model.images import ImageError, prepare, read_image
from pfedbayespt.model.parameters import load_shared_parameters
from pfedbayespt.model.prediction import Predictive, derive_seed, draw_noise
from pfedbayespt.model.prediction import predict as predict_with_model
from pfedbayespt.protocol import (
    ClassProbability,
    Digest,
    ParametersManifest,
    Prediction,
    PredictionRequest,
    Uncertainty,
    digest_of_bytes,
    tensors,
)
from pfedbayespt.server.blobs import BlobCorruptError, BlobError, BlobStore
from pfedbayespt.server.errors import ImageRejected, InferenceUnavailable
from pfedbayespt.server.predictions.predictor import Answer, ServableVersion

_MAX_BUNDLES: Final = 8
_log = structlog.get_logger(__name__)


def make_predictor(blobs: BlobStore, backbones: Path) -> "BundlePredictor":
    """Return the predictor for versions in `blobs`, on backbones in the folder `backbones`."""
    return BundlePredictor(blobs, BackboneFolder(backbones, choose_device()))


class BackboneFolder:
    """The backbones on this machine, found by digest and loaded once."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.folder = folder
        self._device = device
        self._digests: dict[tuple[Path, int, int], Digest] = {}  # by path, size and time of change
        self._loaded: dict[tuple[str, Digest, int], Backbone] = {}

    def load(self, config: BackboneConfig) -> Backbone:
        """Return the backbone; not thread-safe.

        Raises:
            InferenceUnavailable: there is no file of that digest.
            BackboneError: there is one, but it does not fit the architecture.
        """
        key = (config.architecture, config.weights_digest, config.image_size_pixels)
        if key not in self._loaded:
            self._loaded[key] = load_backbone(config, self._find(config.weights_digest), self._device)
        return self._loaded[key]

    def _find(self, digest: Digest) -> Path:
        files = (path for path in sorted(self.folder.glob("*")) if path.is_file())
        found = next((path for path in files if self._digest_of(path) == digest), None)
        if found is None:
            raise InferenceUnavailable(
                f"the backbone {digest} is not here: no file in {self.folder} has this SHA-256; put it there"
            )
        return found

    def _digest_of(self, path: Path) -> Digest:
        status = path.stat()
        key = (path, status.st_size, status.st_mtime_ns)
        if key not in self._digests:
            with path.open("rb") as file:
                self._digests[key] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        return self._digests[key]


@dataclass(frozen=True)
class Bundle:
    """One verified version on its backbone, ready to answer."""

    version: ServableVersion
    config: BackboneConfig
    classifier: PromptedClassifier

    def answer(self, request: PredictionRequest) -> Answer:
        """Classify the image.

        Raises:
            ImageRejected: the image is not one that this service reads.
            InferenceUnavailable: the version's numbers overflow on it.
        """
        watch = _Stopwatch()
        pixels = self._pixels(request.image)
        watch.lap("decode")
        context = self.classifier.encode(pixels)
        watch.lap("encode")
        seed = derive_seed(request.image, self.version.digest) if request.seed is None else request.seed
        noise = draw_noise([seed], request.num_samples, self.classifier.posterior.noise_width)
        predictive = predict_with_model(self.classifier, context, noise)
        prediction = self._described(predictive, request, seed)
        watch.lap("sample")
        return Answer(prediction, watch.seconds)

    def warm_up(self) -> None:
        """Compute an answer that nobody asked for."""
        side = self.config.image_size_pixels
        context = self.classifier.encode(torch.zeros(1, 3, side, side, device=self.classifier.device))
        predict_with_model(
            self.classifier, context, draw_noise([0], 2, self.classifier.posterior.noise_width)
        )

    def _pixels(self, image: bytes) -> torch.Tensor:
        try:
            return prepare(read_image(image), self.config)[None].to(self.classifier.device)
        except ImageError as error:
            raise ImageRejected(str(error)) from error

    def _described(self, predictive: Predictive, request: PredictionRequest, seed: int) -> Prediction:
        version = self.version
        if not _is_finite(predictive):
            raise InferenceUnavailable(
                f"model version {version.number} gives no finite numbers for this image"
            )
        ranked = self._ranked(predictive.probabilities[0])
        return Prediction(
            federation=version.federation,
            label=ranked[0].label,
            probabilities=ranked[: request.top_k],
            uncertainty=_uncertainty(predictive),
            model_version=version.number,
            model_digest=version.digest,
            num_samples=request.num_samples,
            seed=seed,
            image_digest=digest_of_bytes(request.image),
        )

    def _ranked(self, probabilities: torch.Tensor) -> tuple[ClassProbability, ...]:
        order = probabilities.argsort(descending=True, stable=True).tolist()
        classes, shares = self.version.specification.classes, probabilities.tolist()
        # A float32 mean of ones may exceed one by a rounding error.
        return tuple(
            ClassProbability(label=classes[index], probability=min(shares[index], 1.0)) for index in order
        )


class BundlePredictor:
    """The `Predictor` that loads versions from the blob store."""

    def __init__(self, blobs: BlobStore, backbones: BackboneFolder) -> None:
        self._blobs = blobs
        self._backbones = backbones
        self._loading = threading.Lock()
        # The last loaded: never changed, only replaced.
        self._bundles: dict[Digest, Bundle] = {}
        # By federation, what answered last when no version was asked for by number.
        self._serving: dict[str, Bundle] = {}

    def check_available(self) -> None:
        """Return: predictions are computed here."""

    def prepare(self, version: ServableVersion) -> None:
        """Load the version and answer once with it, as a first answer takes longer than the others."""
        if version.digest not in self._bundles:
            self._bundle(version).warm_up()

    def predict(self, version: ServableVersion, request: PredictionRequest) -> Answer:
        """Answer with `version`, or with the one that served before; see `Predictor`."""
        if request.model_version is not None:
            return self._bundle(version).answer(request)
        return self._serving_bundle(version).answer(request)

    def _serving_bundle(self, version: ServableVersion) -> Bundle:
        serving = self._serving.get(version.federation)
        if serving is not None and serving.version.digest == version.digest:
            return serving
        try:
            bundle = self._bundle(version)
        except InferenceUnavailable:
            if serving is None:
                raise
            _log.exception("version_not_loaded", number=version.number, still=serving.version.number)
            return serving
        self._serving[version.federation] = bundle
        return bundle

    def _bundle(self, version: ServableVersion) -> Bundle:
        bundle = self._bundles.get(version.digest)
        if bundle is not None:
            return bundle
        with self._loading:
            bundle = self._bundles.get(version.digest) or self._load(version)
            kept = list(self._bundles.items())[-(_MAX_BUNDLES - 1) :]
            self._bundles = dict([*kept, (version.digest, bundle)])
        return bundle

    def _load(self, version: ServableVersion) -> Bundle:
        try:
            return self._assemble(version, self._parameters_of(version))
        except (BlobError, OSError, ValueError) as error:
            # The errors of the codec and of the model package are all ValueErrors.
            raise InferenceUnavailable(
                f"model version {version.number} of {version.federation!r} cannot be loaded: {error}"
            ) from error

    def _parameters_of(self, version: ServableVersion) -> dict[str, tensors.FloatArray]:
        with self._blobs.open(version.digest) as file:
            content = file.read()
        if digest_of_bytes(content) != version.digest:
            raise BlobCorruptError(f"blob {version.digest} is damaged")
        manifest_json, parameters = tensors.decode(content)
        _check_manifest(ParametersManifest.model_validate_json(manifest_json), version)
        return parameters

    def _assemble(self, version: ServableVersion, parameters: dict[str, tensors.FloatArray]) -> Bundle:
        agreed = version.specification.model_dump(mode="json")
        config = BackboneConfig.from_specification(agreed)
        backbone = self._backbones.load(config)
        classifier = build_classifier(ModelConfig.from_specification(agreed), backbone, torch.Generator())
        load_shared_parameters(classifier, parameters)
        return Bundle(version, config, classifier.eval())


class _Stopwatch:
    """Tells how long each step took, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        now = time.perf_counter()
        self.seconds[step] = now - self._last
        self._last = now


def _check_manifest(manifest: ParametersManifest, version: ServableVersion) -> None:
    actual = (manifest.federation, manifest.specification_digest, manifest.version_number)
    if actual != (version.federation, version.specification_digest, version.number):
        raise ValueError(
            f"its file says that it is version {manifest.version_number} of {manifest.federation!r}"
        )


def _is_finite(predictive: Predictive) -> bool:
    numbers = (predictive.probabilities, predictive.epistemic_corrected, predictive.prompt_variance)
    return all(bool(tensor.isfinite().all()) for tensor in numbers)


def _uncertainty(predictive: Predictive) -> Uncertainty:
    # Entropies of rounded probabilities may fall below zero by a rounding error.
    return Uncertainty(
        total_entropy_nats=max(float(predictive.total[0]), 0.0),
        aleatoric_entropy_nats=max(float(predictive.aleatoric[0]), 0.0),
        epistemic_entropy_nats=max(float(predictive.epistemic[0]), 0.0),
        epistemic_entropy_corrected_nats=max(float(predictive.epistemic_corrected[0]), 0.0),
        prompt_variance=float(predictive.prompt_variance[0]),
    )
