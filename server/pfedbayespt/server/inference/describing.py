"""From numbers to the message: labels, rounding, and what the version's calibration makes of the answer."""

from dataclasses import dataclass

from pfedbayespt.model.calibration import Array, ConformalScore, conformal_set, tempered
from pfedbayespt.model.prediction import Predictive
from pfedbayespt.protocol import (
    CalibratedAnswer,
    ClassProbability,
    Prediction,
    PredictionRequest,
    Uncertainty,
    VersionCalibration,
    digest_of_bytes,
)
from pfedbayespt.protocol.predictions import Precision
from pfedbayespt.server.errors import InferenceUnavailable
from pfedbayespt.server.predictions.predictor import ServableVersion


@dataclass(frozen=True)
class Asked:
    """What was asked of whom."""

    version: ServableVersion
    request: PredictionRequest
    seed: int
    site_id: str | None
    precision: Precision


def describe(asked: Asked, predictive: Predictive) -> Prediction:
    """Return the answer's message; `predictive` is of one image.

    Raises:
        InferenceUnavailable: a number is not finite.
    """
    version, request = asked.version, asked.request
    if not predictive.is_finite:
        raise InferenceUnavailable(f"model version {version.number} gives no finite numbers for this image")
    shares = predictive.probabilities[0].cpu().double().numpy()
    calibration = version.calibration if request.class_prior is None else None
    ranked = ClassProbability.ranked(
        version.specification.classes,
        shares.tolist(),
        None
        if calibration is None
        else tempered(shares[None], calibration.calibration.temperature)[0].tolist(),
    )
    return Prediction(
        federation=version.federation,
        label=ranked[0].label,
        probabilities=ranked[: request.top_k],
        uncertainty=Uncertainty(**predictive.doubt_of(0)),
        model_version=version.number,
        model_digest=version.digest,
        num_samples=request.num_samples,
        seed=asked.seed,
        image_digest=digest_of_bytes(request.image),
        precision=asked.precision,
        calibration=None if calibration is None else _calibrated(asked, shares, calibration, predictive),
        samples=_samples(predictive) if request.return_samples else None,
    )


def _calibrated(
    asked: Asked, shares: Array, calibrated: VersionCalibration, predictive: Predictive
) -> CalibratedAnswer:
    score = ConformalScore.by(calibrated.calibration.policy)
    threshold = calibrated.calibration.threshold_for(asked.site_id).score
    classes = asked.version.specification.classes
    chosen = tuple(classes[index] for index in conformal_set(shares, score, threshold, asked.seed))
    return CalibratedAnswer.by(calibrated, asked.site_id, chosen, float(predictive.total[0]))


def _samples(predictive: Predictive) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in predictive.sample_probabilities[0].cpu().tolist())
