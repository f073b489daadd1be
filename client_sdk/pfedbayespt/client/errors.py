"""Every exception that the SDK raises on purpose.

    PFedBayesPTError
    ├── ProblemError                  the coordinator answered with a problem document (RFC 9457)
    │   ├── InvalidRequest            ├── RoundClosed             ├── BodyTooLarge
    │   ├── AuthenticationRequired    ├── NotInCohort             ├── BodyTimeout
    │   ├── PermissionDenied          ├── UpdateConflict          ├── UnsupportedMediaType
    │   ├── NotFound                  ├── UpdateRejected          ├── ImageRejected
    │   ├── MethodNotAllowed          ├── ParametersRejected      ├── NoServingVersion
    │   ├── AlreadyExists             ├── DigestMismatch          ├── InferenceUnavailable
    │   ├── EnrolmentTokenRefused     ├── EvaluationConflict      ├── Overloaded
    │   ├── TransitionNotAllowed      ├── StorageExhausted        ├── InternalError
    │   ├── NoOpenRound               ├── SignatureRejected       ├── UpdateTooStale
    │   └── ProtocolMismatch          ├── QuotaExceeded           └── RateLimited
    ├── TransportError                no answer, or none that can be understood
    ├── IntegrityError                downloaded bytes are not the ones that were announced
    ├── SpecificationChangedError     the federation is not the one this site agreed to
    ├── BackboneMismatchError         the backbone file is not the federation's
    ├── DatasetError                  the images or labels cannot be used
    ├── TrainingError                 training did not lead to finite numbers
    ├── PredictionError               the model gives no finite numbers for this image
    └── StateError                    the site's state directory cannot be used

A problem of a kind that this release does not know is a plain `ProblemError`.
"""

from typing import ClassVar

from pfedbayespt.protocol import Problem, ProblemType


class PFedBayesPTError(Exception):
    """Base of everything the SDK raises on purpose."""


class ProblemError(PFedBayesPTError):
    """The coordinator refused or failed; `problem` is its own account of why.

    Attributes:
        problem: the problem document.
        retry_after_seconds: what the Retry-After header asked for, if it was there.
    """

    problem_type: ClassVar[ProblemType | None] = None

    def __init__(self, problem: Problem, retry_after_seconds: float | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.retry_after_seconds = retry_after_seconds

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status


class InvalidRequest(ProblemError):
    """The request does not have the documented form; `problem.errors` says where."""

    problem_type = ProblemType.INVALID_REQUEST


class AuthenticationRequired(ProblemError):
    """The credential is missing, unknown or revoked."""

    problem_type = ProblemType.AUTHENTICATION_REQUIRED


class PermissionDenied(ProblemError):
    """The credential does not allow this."""

    problem_type = ProblemType.PERMISSION_DENIED


class NotFound(ProblemError):
    """No such object, or none that these credentials may see."""

    problem_type = ProblemType.NOT_FOUND


class MethodNotAllowed(ProblemError):
    """The resource does not support this method."""

    problem_type = ProblemType.METHOD_NOT_ALLOWED


class AlreadyExists(ProblemError):
    """An object of this name exists already."""

    problem_type = ProblemType.ALREADY_EXISTS


class EnrolmentTokenRefused(ProblemError):
    """The enrolment token is unknown, used or expired."""

    problem_type = ProblemType.ENROLMENT_TOKEN_REFUSED


class SignatureRejected(ProblemError):
    """The coordinator does not find the signature good for this request."""

    problem_type = ProblemType.SIGNATURE_REJECTED


class TransitionNotAllowed(ProblemError):
    """The object's state does not allow this."""

    problem_type = ProblemType.TRANSITION_NOT_ALLOWED


class RoundClosed(ProblemError):
    """The round no longer takes updates."""

    problem_type = ProblemType.ROUND_CLOSED


class NoOpenRound(ProblemError):
    """The update is late, and the round in which it counts is not open yet: submit it again."""

    problem_type = ProblemType.NO_OPEN_ROUND


class UpdateTooStale(ProblemError):
    """The update starts from a version too many versions ago, or from one that was rolled back."""

    problem_type = ProblemType.UPDATE_TOO_STALE


class NotInCohort(ProblemError):
    """The site is not asked in this round."""

    problem_type = ProblemType.NOT_IN_COHORT


class UpdateConflict(ProblemError):
    """The site has submitted another update in this round."""

    problem_type = ProblemType.UPDATE_CONFLICT


class UpdateRejected(ProblemError):
    """The update fails a check and is quarantined."""

    problem_type = ProblemType.UPDATE_REJECTED


class ParametersRejected(ProblemError):
    """The parameters file fails a check."""

    problem_type = ProblemType.PARAMETERS_REJECTED


class DigestMismatch(ProblemError):
    """The coordinator received other bytes than were announced."""

    problem_type = ProblemType.DIGEST_MISMATCH


class EvaluationConflict(ProblemError):
    """The site has reported another evaluation of this version."""

    problem_type = ProblemType.EVALUATION_CONFLICT


class BodyTooLarge(ProblemError):
    """The body is larger than the coordinator allows."""

    problem_type = ProblemType.BODY_TOO_LARGE


class BodyTimeout(ProblemError):
    """The body did not arrive in time."""

    problem_type = ProblemType.BODY_TIMEOUT


class UnsupportedMediaType(ProblemError):
    """The body's media type is not supported."""

    problem_type = ProblemType.UNSUPPORTED_MEDIA_TYPE


class ImageRejected(ProblemError):
    """The body is not an image that the service reads."""

    problem_type = ProblemType.IMAGE_REJECTED


class NoServingVersion(ProblemError):
    """The federation has no model version to answer with."""

    problem_type = ProblemType.NO_SERVING_VERSION


class InferenceUnavailable(ProblemError):
    """No inference runs there now."""

    problem_type = ProblemType.INFERENCE_UNAVAILABLE


class QuotaExceeded(ProblemError):
    """This caller has as much under way as one caller may; `retry_after_seconds` says when to come back."""

    problem_type = ProblemType.QUOTA_EXCEEDED


class RateLimited(ProblemError):
    """Too many requests of late; `retry_after_seconds` says when not any more."""

    problem_type = ProblemType.RATE_LIMITED


class Overloaded(ProblemError):
    """The coordinator has more work than it can take."""

    problem_type = ProblemType.OVERLOADED


class StorageExhausted(ProblemError):
    """The coordinator's storage is full; nothing was acknowledged."""

    problem_type = ProblemType.STORAGE_EXHAUSTED


class ProtocolMismatch(ProblemError):
    """The coordinator speaks another version of the protocol; the message says which side to upgrade."""

    problem_type = ProblemType.PROTOCOL_MISMATCH


class InternalError(ProblemError):
    """The coordinator failed."""

    problem_type = ProblemType.INTERNAL_ERROR


class TransportError(PFedBayesPTError):
    """No answer came, or none that can be understood.

    Attributes:
        sent: whether the request may have reached the coordinator.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class IntegrityError(PFedBayesPTError):
    """Downloaded bytes are not the ones that were announced: they are thrown away."""


class SpecificationChangedError(PFedBayesPTError):
    """The coordinator speaks of another federation than the one this site agreed to (promise P8)."""


class BackboneMismatchError(PFedBayesPTError):
    """The backbone file is not the one that the federation's specification names (promise P8)."""


class DatasetError(PFedBayesPTError):
    """The images or labels cannot be used; the message says which and what is allowed."""


class TrainingError(PFedBayesPTError):
    """Training on these images with this specification did not lead to finite numbers."""


class PredictionError(PFedBayesPTError):
    """The model version gives no finite numbers for this image."""


class StateError(PFedBayesPTError):
    """The site's state directory is missing, damaged, too open, or in use by another process."""


_CLASSES = {cls.problem_type: cls for cls in ProblemError.__subclasses__()}


def problem_error(problem: Problem, retry_after_seconds: float | None = None) -> ProblemError:
    """Return the exception that stands for `problem`."""
    known = ProblemType.from_urn(problem.type)
    return _CLASSES.get(known, ProblemError)(problem, retry_after_seconds)
