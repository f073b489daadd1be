"""The `Predictor` that loads versions from the blob store."""

import threading
from dataclasses import replace
from typing import Final

import structlog
import torch

from pfedbayespt.model.classifier import build_classifier
from pfedbayespt.model.config import BackboneConfig, ModelConfig
from pfedbayespt.model.parameters import load_shared_parameters
from pfedbayespt.protocol import Digest, ParametersManifest, PredictionRequest, digest_of_bytes, tensors
from pfedbayespt.server.blobs import BlobCorruptError, BlobError, BlobStore
from pfedbayespt.server.errors import InferenceUnavailable, StorageUnavailable
from pfedbayespt.server.inference.backbones import BackboneFolder
from pfedbayespt.server.inference.batching import MicroBatcher, alone
from pfedbayespt.server.inference.bundle import Bundle
from pfedbayespt.server.inference.features import FeatureCache
from pfedbayespt.server.predictions.predictor import NOBODY, Answer, Asker, ServableVersion

_MAX_BUNDLES: Final = 8
_log = structlog.get_logger(__name__)


class BundlePredictor:
    """The `Predictor` that loads versions from the blob store."""

    def __init__(
        self,
        blobs: BlobStore,
        backbones: BackboneFolder,
        batcher: MicroBatcher | None = None,
        features: FeatureCache | None = None,
    ) -> None:
        self._blobs = blobs
        self._features = features
        self._arrival = alone if batcher is None else batcher.arrival
        self._backbones = backbones
        self._loading = threading.Lock()
        # The last loaded: never changed, only replaced.
        self._bundles: dict[Digest, Bundle] = {}
        # By federation, what answered last when no version was asked for by number.
        self._serving: dict[str, Bundle] = {}

    def check_available(self) -> None:
        """Return: predictions are computed here."""

    def forget(self, tenant: str | None) -> int:
        """Forget encoded images; see `Predictor`."""
        return 0 if self._features is None else self._features.purge(tenant)

    def prepare(self, version: ServableVersion) -> None:
        """Load the version and answer once with it, as a first answer takes longer than the others."""
        if version.digest not in self._bundles:
            self._bundle(version).warm_up()

    def predict(self, version: ServableVersion, request: PredictionRequest, asker: Asker = NOBODY) -> Answer:
        """Answer with `version`, or with the one that served before; see `Predictor`."""
        find = self._serving_bundle if request.model_version is None else self._bundle
        bundle = find(version)
        if bundle.version.digest == version.digest:
            bundle = replace(bundle, version=version)  # its calibration may be newer than the bundle
        return bundle.answer(request, asker)

    def _serving_bundle(self, version: ServableVersion) -> Bundle:
        serving = self._serving.get(version.federation)
        if serving is not None and serving.version.digest == version.digest:
            return serving
        try:
            bundle = self._bundle(version)
        except (InferenceUnavailable, StorageUnavailable):
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
        return Bundle(
            version, config, classifier.eval(), self._backbones.precision, self._arrival, self._features
        )


def _check_manifest(manifest: ParametersManifest, version: ServableVersion) -> None:
    actual = (manifest.federation, manifest.specification_digest, manifest.version_number)
    if actual != (version.federation, version.specification_digest, version.number):
        raise ValueError(
            f"its file says that it is version {manifest.version_number} of {manifest.federation!r}"
        )
