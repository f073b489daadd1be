"""Prediction beside the data: the same functions as the coordinator's, plus what is personal to this site."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pfedbayespt.client.errors import PredictionError
from pfedbayespt.client.federation_model import FederationModel
from pfedbayespt.model.calibration import Array, ConformalScore, conformal_set, tempered
from pfedbayespt.model.images import prepare, read_image
from pfedbayespt.model.prediction import Predictive, derive_seed, draw_noise, predict
from pfedbayespt.model.sources import ContextSource
from pfedbayespt.protocol import (
    CalibratedAnswer,
    ClassProbability,
    Evaluation,
    Prediction,
    Uncertainty,
    VersionCalibration,
    digest_of_bytes,
)

DEFAULT_NUM_SAMPLES = 16


@dataclass(frozen=True)
class LocalPredictor:
    """One verified model version, ready to answer. Nothing leaves the machine.

    Attributes:
        model: holds the version's parameters and the site's personal ones.
        federation: its name.
        model_version: the version's number.
        model_digest: the version's digest.
        class_prior: the site's class frequencies, where they belong into its predictions.
        site_id: of the site.
        calibration: of the version's shared parameters; None: it has none, or what is personal here makes it void.
    """

    model: FederationModel
    federation: str
    model_version: int
    model_digest: str
    class_prior: torch.Tensor | None
    site_id: str | None = None
    calibration: VersionCalibration | None = None

    def predict(
        self,
        image: Path | str | bytes,
        *,
        num_samples: int = DEFAULT_NUM_SAMPLES,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> Prediction:
        """Classify one JPEG, PNG or WEBP file.

        Args:
            image: the file, or its content.
            num_samples: S, draws of the prompt posterior.
            top_k: how many classes to name, most probable first; None: all.
            seed: of the draws; None: derived from the image and the version, so that answers replay.

        Raises:
            ImageError: it is not an image that the product reads.
            PredictionError: the version's numbers overflow on it.
        """
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        chosen = derive_seed(content, self.model_digest) if seed is None else seed
        answer = self._predictive(content, num_samples, chosen)
        shares = answer.probabilities[0].cpu().double().numpy()
        ranked = ClassProbability.ranked(
            self.model.specification.classes, shares.tolist(), self._tempered(shares)
        )
        return Prediction(
            federation=self.federation,
            label=ranked[0].label,
            probabilities=ranked[:top_k],
            uncertainty=Uncertainty(**answer.doubt_of(0)),
            model_version=self.model_version,
            model_digest=self.model_digest,
            num_samples=num_samples,
            seed=chosen,
            image_digest=digest_of_bytes(content),
            calibration=self._calibrated(shares, chosen, float(answer.total[0])),
        )

    def evaluate(self, images: ContextSource) -> Evaluation:
        """Try the version on labelled images."""
        return self.model.evaluate(images, self.class_prior)

    def _predictive(self, content: bytes, num_samples: int, seed: int) -> Predictive:
        classifier = self.model.classifier
        pixels = prepare(read_image(content), self.model.backbone_config)[None].to(classifier.device)
        noise = draw_noise([seed], num_samples, classifier.posterior.noise_width)
        answer = predict(classifier, classifier.encode(pixels), noise, self.class_prior)
        if not answer.is_finite:
            raise PredictionError(
                f"model version {self.model_version} gives no finite numbers for this image"
            )
        return answer

    def _tempered(self, shares: Array) -> list[float] | None:
        if self.calibration is None:
            return None
        tempered_shares: list[float] = tempered(shares[None], self.calibration.calibration.temperature)[
            0
        ].tolist()
        return tempered_shares

    def _calibrated(self, shares: Array, seed: int, total_entropy_nats: float) -> CalibratedAnswer | None:
        if self.calibration is None:
            return None
        score = ConformalScore.by(self.calibration.calibration.policy)
        threshold = self.calibration.calibration.threshold_for(self.site_id).score
        classes = self.model.specification.classes
        chosen = tuple(classes[index] for index in conformal_set(shares, score, threshold, seed))
        return CalibratedAnswer.by(self.calibration, self.site_id, chosen, total_entropy_nats)
