"""The federation's model at a site: specification and backbone file in, a classifier that takes parameters out."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from pfedbayespt.client.agreement import check_backbone
from pfedbayespt.client.errors import IntegrityError, StateError
from pfedbayespt.client.personal import PersonalManifest
from pfedbayespt.model.backbone import Backbone, load_backbone
from pfedbayespt.model.calibration import ConformalScore, make_sketch
from pfedbayespt.model.classifier import PromptedClassifier, build_classifier
from pfedbayespt.model.config import BackboneConfig, ModelConfig
from pfedbayespt.model.evaluation import evaluate
from pfedbayespt.model.parameters import (
    ParameterError,
    load_personal_parameters,
    load_shared_parameters,
    personal_parameters,
    shared_parameters,
)
from pfedbayespt.model.sources import ContextSource
from pfedbayespt.protocol import (
    CalibrationSketch,
    Evaluation,
    FederationSpecification,
    TensorFileError,
    tensors,
)
from pfedbayespt.protocol.calibrations import MAX_SKETCH_POINTS, TEMPERATURES
from pfedbayespt.protocol.tensors import FloatArray


@dataclass(frozen=True)
class FederationModel:
    """A classifier of one federation, and the file formats of its parameters.

    Attributes:
        specification: what the federation agreed to.
        backbone_config: how images are prepared.
        classifier: takes the parameters of any of the federation's versions.
    """

    specification: FederationSpecification
    backbone_config: BackboneConfig
    classifier: PromptedClassifier

    @classmethod
    def load(cls, specification: FederationSpecification, backbone_file: Path, device: torch.device) -> Self:
        """Build the federation's model around the backbone in `backbone_file`.

        Raises:
            BackboneMismatchError: the file is not the federation's backbone; nothing else was read from it.
        """
        check_backbone(backbone_file, specification.backbone)
        described = specification.model_dump(mode="json")
        config = BackboneConfig.from_specification(described)
        return cls.around(specification, load_backbone(config, backbone_file, device), config)

    def twin(self, *, personal_head: bool = False) -> Self:
        """Return a second model around the same backbone, whose parameters are its own; see `around`."""
        backbone = self.classifier.insertion.backbone
        return self.around(self.specification, backbone, self.backbone_config, personal_head=personal_head)

    @classmethod
    def around(
        cls,
        specification: FederationSpecification,
        backbone: Backbone,
        config: BackboneConfig,
        *,
        personal_head: bool = False,
    ) -> Self:
        """Build the federation's model around a loaded backbone.

        `personal_head`: with a personal residual, even if the federation trains none; what is shared is the same.
        """
        model_config = ModelConfig.from_specification(specification.model_dump(mode="json"))
        if personal_head:
            model_config = replace(model_config, head=replace(model_config.head, personal_residual=True))
        generator = torch.Generator().manual_seed(specification.training.seed)
        return cls(specification, config, build_classifier(model_config, backbone, generator))

    def take(self, parameters: bytes, personal: bytes | None) -> dict[str, FloatArray]:
        """Set the shared parameters to those of a file and return them; set the personal ones to the site's.

        Without a file the personal parameters are zero, as they are before a site's first round.

        Raises:
            IntegrityError: the file does not hold this model's parameters.
            StateError: the site's own file does not.
        """
        try:
            shared = tensors.decode(parameters)[1]
            load_shared_parameters(self.classifier, shared)
        except (TensorFileError, ParameterError) as error:
            raise IntegrityError(f"the parameters do not fit the federation's model: {error}") from error
        try:
            load_personal_parameters(self.classifier, self._personal_of(personal))
        except (TensorFileError, ParameterError) as error:
            raise StateError(f"the site's personal parameters do not fit the model: {error}") from error
        return shared

    def evaluate(
        self, images: ContextSource, class_prior: torch.Tensor | None, *, compare: bool = True
    ) -> Evaluation:
        """Try the parameters that were set last on labelled images.

        Args:
            images: encoded images and their labels.
            class_prior: the site's class frequencies [C]; None: they do not belong into its predictions.
            compare: where personal parameters do something, also try without them: `accuracy_shared` and so on.
        """
        measures = evaluate(self.classifier, images, class_prior=class_prior)
        metrics, residual = measures.to_metrics(), self.classifier.readout.residual
        if compare and residual is not None and any(bool(part.any()) for part in residual.parameters()):
            with _set_aside(self.classifier):
                shared = evaluate(self.classifier, images, class_prior=class_prior).to_metrics()
            metrics |= {f"{name}_shared": value for name, value in shared.items()}
        return Evaluation(num_examples=measures.num_examples, metrics=metrics)

    def sketch(self, images: ContextSource) -> CalibrationSketch:
        """Return the scores of labelled images under the shared parameters alone, to calibrate the version from."""
        score = ConformalScore.by(self.specification.calibration)
        with _set_aside(self.classifier):
            sketch = make_sketch(self.classifier, images, score, TEMPERATURES, max_points=MAX_SKETCH_POINTS)
        return CalibrationSketch(**asdict(sketch))

    def _personal_of(self, file: bytes | None) -> dict[str, FloatArray]:
        if file is not None:
            return tensors.decode(file)[1]
        return {name: np.zeros_like(now) for name, now in personal_parameters(self.classifier).items()}

    def shared(self) -> dict[str, FloatArray]:
        """Return the shared parameters as they are now."""
        return shared_parameters(self.classifier)

    @property
    def has_personal_head(self) -> bool:
        """Whether there are personal parameters."""
        return self.classifier.config.head.personal_residual

    def personal_file(self, manifest: PersonalManifest) -> bytes:
        """Return the personal parameters as a file."""
        return tensors.encode(personal_parameters(self.classifier), manifest)


@contextmanager
def _set_aside(classifier: PromptedClassifier) -> Iterator[None]:
    """Take the personal parameters away until the block ends."""
    personal = personal_parameters(classifier)
    load_personal_parameters(classifier, {name: np.zeros_like(now) for name, now in personal.items()})
    try:
        yield
    finally:
        load_personal_parameters(classifier, personal)
