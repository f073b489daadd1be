"""The port behind which predictions are computed, and its null implementation.

A coordinator without inference never imports torch: it gets `NoPredictor`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

from pfedbayespt.protocol import Digest, FederationSpecification, Prediction, PredictionRequest
from pfedbayespt.server.errors import InferenceUnavailable


@dataclass(frozen=True)
class ServableVersion:
    """A model version, and all that must be known of its federation to answer with it."""

    federation: str
    specification: FederationSpecification
    specification_digest: Digest
    number: int
    digest: Digest


@dataclass(frozen=True)
class Answer:
    """A prediction, and how long its steps took: apart, because the same request gives the same prediction."""

    prediction: Prediction
    seconds: Mapping[str, float]


class Predictor(Protocol):
    """Answers with a model version. Implementations are thread-safe."""

    def check_available(self) -> None:
        """Return if predictions can be asked for; InferenceUnavailable if none are computed here."""

    def prepare(self, version: ServableVersion) -> None:
        """Load what `version` needs, so that the first request for it does not have to.

        Raises:
            InferenceUnavailable: the version or its backbone cannot be loaded.
        """

    def predict(self, version: ServableVersion, request: PredictionRequest) -> Answer:
        """Return the answer of one complete, verified version, which it names.

        That is `version`, or the one that served before if `request` asks for none in particular and `version`
        cannot be loaded.

        Raises:
            ImageRejected: the image is not one that this service reads.
            InferenceUnavailable: the version or its backbone cannot be loaded.
        """


class NoPredictor:
    """Computes nothing."""

    def check_available(self) -> NoReturn:
        """Say that nothing is computed here."""
        raise InferenceUnavailable(
            "this process does not run inference; ask one whose roles include `inference`"
        )

    def prepare(self, version: ServableVersion) -> None:
        """Load nothing."""

    def predict(self, version: ServableVersion, request: PredictionRequest) -> NoReturn:  # noqa: ARG002
        """Say that nothing is computed here."""
        self.check_available()
