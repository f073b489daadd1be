"""Prediction beside the data: the same functions as the coordinator's, plus what is personal to this site."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pfedbayespt.client.federation_model import FederationModel
from pfedbayespt.model.images import prepare, read_image
from pfedbayespt.model.prediction import Predictive, derive_seed, draw_noise, predict
from pfedbayespt.model.sources import ContextSource
from pfedbayespt.protocol import ClassProbability, Evaluation, Prediction, Uncertainty, digest_of_bytes

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
    """

    model: FederationModel
    federation: str
    model_version: int
    model_digest: str
    class_prior: torch.Tensor | None

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
        """
        content = image if isinstance(image, bytes) else Path(image).read_bytes()
        chosen = derive_seed(content, self.model_digest) if seed is None else seed
        answer = self._predictive(content, num_samples, chosen)
        ranked = self._ranked(answer)
        return Prediction(
            federation=self.federation,
            label=ranked[0].label,
            probabilities=ranked[:top_k],
            uncertainty=_uncertainty(answer),
            model_version=self.model_version,
            model_digest=self.model_digest,
            num_samples=num_samples,
            seed=chosen,
            image_digest=digest_of_bytes(content),
        )

    def evaluate(self, images: ContextSource) -> Evaluation:
        """Try the version on labelled images."""
        return self.model.evaluate(images, self.class_prior)

    def _predictive(self, content: bytes, num_samples: int, seed: int) -> Predictive:
        classifier = self.model.classifier
        pixels = prepare(read_image(content), self.model.backbone_config)[None].to(classifier.device)
        noise = draw_noise([seed], num_samples, classifier.posterior.noise_width)
        return predict(classifier, classifier.encode(pixels), noise, self.class_prior)

    def _ranked(self, answer: Predictive) -> tuple[ClassProbability, ...]:
        probabilities = answer.probabilities[0].cpu()
        order = probabilities.argsort(descending=True, stable=True).tolist()
        classes = self.model.specification.classes
        return tuple(
            # A float32 mean of ones may be one and a rounding error.
            ClassProbability(label=classes[index], probability=min(float(probabilities[index]), 1.0))
            for index in order
        )


def _uncertainty(answer: Predictive) -> Uncertainty:
    return Uncertainty(
        total_entropy_nats=float(answer.total[0]),
        aleatoric_entropy_nats=float(answer.aleatoric[0]),
        epistemic_entropy_nats=float(answer.epistemic[0]),
        epistemic_entropy_corrected_nats=float(answer.epistemic_corrected[0]),
        prompt_variance=float(answer.prompt_variance[0]),
    )
