"""The port behind which predictions are computed, and its null implementation.

A coordinator without inference never imports torch: it gets `NoPredictor`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn, Protocol

from pfedbayespt.protocol import (
    Digest,
    FederationSpecification,
    Prediction,
    PredictionRequest,
    VersionCalibration,
)
from pfedbayespt.protocol.trials import StickyBy
from pfedbayespt.server.errors import InferenceUnavailable


@dataclass(frozen=True)
class ServableVersion:
    """A model version, and all that must be known of its federation to answer with it."""

    federation: str
    specification: FederationSpecification
    specification_digest: Digest
    number: int
    digest: Digest
    calibration: VersionCalibration | None = None
    trial: "TrialVersion | None" = None  # what is tried beside it while it serves


@dataclass(frozen=True)
class TrialVersion:
    """A version on trial, and for whom it answers or computes: `TrialTerms`."""

    trial_id: str
    candidate: ServableVersion
    answer_share: float
    compare_share: float
    sticky_by: StickyBy


@dataclass(frozen=True)
class Asker:
    """Whom an answer is for.

    Attributes:
        site_id: of the site that asks, which may have a calibration of its own.
        tenant: among whose encoded images the image may be looked for and kept; None: nobody's.
    """

    site_id: str | None = None
    tenant: str | None = None


NOBODY = Asker()


@dataclass(frozen=True)
class Answer:
    """A prediction, and how long its steps took: apart, because the same request gives the same prediction."""

    prediction: Prediction
    seconds: Mapping[str, float]


class Predictor(Protocol):
    """Answers with a model version. Implementations are thread-safe."""

    def check_available(self) -> None:
        """Return if predictions can be asked for; InferenceUnavailable if none are computed here."""

    def forget(self, tenant: str | None) -> int:
        """Forget the tenant's encoded images, or with None everybody's, and return how many bytes they took."""

    def prepare(self, version: ServableVersion) -> None:
        """Load what `version` needs, so that the first request for it does not have to.

        Raises:
            InferenceUnavailable: the version or its backbone cannot be loaded.
        """

    def predict(self, version: ServableVersion, request: PredictionRequest, asker: Asker = NOBODY) -> Answer:
        """Return the answer of one complete, verified version, which it names.

        That is `version`, or the one that served before if `request` asks for none in particular and `version`
        cannot be loaded.

        Raises:
            ImageRejected: the image is not one that this service reads.
            InvalidRequest: an option does not fit the federation.
            InferenceUnavailable: the version or its backbone cannot be loaded.
        """


class NoPredictor:
    """Computes nothing."""

    def check_available(self) -> NoReturn:
        """Say that nothing is computed here."""
        raise InferenceUnavailable(
            "this process does not run inference; ask one whose roles include `inference`"
        )

    def forget(self, tenant: str | None) -> int:  # noqa: ARG002
        """Forget nothing."""
        return 0

    def prepare(self, version: ServableVersion) -> None:
        """Load nothing."""

    def predict(
        self,
        version: ServableVersion,  # noqa: ARG002
        request: PredictionRequest,  # noqa: ARG002
        asker: Asker = NOBODY,  # noqa: ARG002
    ) -> NoReturn:
        """Say that nothing is computed here."""
        self.check_available()
