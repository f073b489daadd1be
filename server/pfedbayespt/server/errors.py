"""The one exception tree of the server: a class per `protocol.ProblemType`, of the same name.

    CoordinatorError
    ├── InvalidRequest            ├── RoundClosed              ├── BodyTimeout
    ├── AuthenticationRequired    ├── NoOpenRound              ├── UnsupportedMediaType
    ├── PermissionDenied          ├── UpdateTooStale           ├── ImageRejected
    ├── NotFound                  ├── NotInCohort              ├── NoServingVersion
    ├── MethodNotAllowed          ├── UpdateConflict           ├── InferenceUnavailable
    ├── AlreadyExists             ├── UpdateRejected           ├── Overloaded
    ├── EnrolmentTokenRefused     ├── ParametersRejected       │   └── StorageUnavailable
    ├── TransitionNotAllowed      ├── DigestMismatch           ├── StorageExhausted
    │   └── LostRace              ├── EvaluationConflict       ├── ProtocolMismatch
                                  ├── SignatureRejected        └── InternalError
                                  ├── RateLimited
                                  ├── BodyTooLarge
                                  ├── QuotaExceeded

Domain code raises these and never an HTTP exception; `problems.py` renders them. `detail` tells the caller what was
wrong and what is allowed, and never holds a secret; `extensions` are further members of the problem document.
"""

from typing import ClassVar

from pydantic import JsonValue

from pfedbayespt.protocol import ProblemType


class CoordinatorError(Exception):
    """What every error of the server has in common."""

    problem: ClassVar[ProblemType] = ProblemType.INTERNAL_ERROR

    def __init__(self, detail: str, **extensions: JsonValue) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extensions = extensions


class InvalidRequest(CoordinatorError):
    """The request does not have the documented form."""

    problem = ProblemType.INVALID_REQUEST


class AuthenticationRequired(CoordinatorError):
    """No credentials, or none that are valid now."""

    problem = ProblemType.AUTHENTICATION_REQUIRED


class PermissionDenied(CoordinatorError):
    """The caller is known, but may not do this."""

    problem = ProblemType.PERMISSION_DENIED


class NotFound(CoordinatorError):
    """There is no such object, or none that this caller may know of."""

    problem = ProblemType.NOT_FOUND


class MethodNotAllowed(CoordinatorError):
    """The path exists, the method does not."""

    problem = ProblemType.METHOD_NOT_ALLOWED


class AlreadyExists(CoordinatorError):
    """The name is taken, or the object was created with other content."""

    problem = ProblemType.ALREADY_EXISTS


class EnrolmentTokenRefused(CoordinatorError):
    """The enrolment token is unknown, used or expired; it does not say which."""

    problem = ProblemType.ENROLMENT_TOKEN_REFUSED


class SignatureRejected(CoordinatorError):
    """A signed message is not signed with the right key, or speaks of something else than the request."""

    problem = ProblemType.SIGNATURE_REJECTED


class TransitionNotAllowed(CoordinatorError):
    """The object's state does not allow this."""

    problem = ProblemType.TRANSITION_NOT_ALLOWED


class LostRace(TransitionNotAllowed):
    """Another transaction moved the object first: the compare-and-set found another epoch."""


class RoundClosed(CoordinatorError):
    """The round no longer takes updates."""

    problem = ProblemType.ROUND_CLOSED


class NoOpenRound(CoordinatorError):
    """The update is late, and the round in which it counts is not open yet."""

    problem = ProblemType.NO_OPEN_ROUND


class UpdateTooStale(CoordinatorError):
    """The update starts from a version too many versions ago, or from one that was rolled back."""

    problem = ProblemType.UPDATE_TOO_STALE


class NotInCohort(CoordinatorError):
    """The site is not asked in this round."""

    problem = ProblemType.NOT_IN_COHORT


class UpdateConflict(CoordinatorError):
    """The site has submitted another update in this round."""

    problem = ProblemType.UPDATE_CONFLICT


class UpdateRejected(CoordinatorError):
    """The update fails a check; `reason` is the machine-readable name of that check."""

    problem = ProblemType.UPDATE_REJECTED

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail, reason=reason)
        self.reason = reason


class ParametersRejected(CoordinatorError):
    """The parameters file fails a check."""

    problem = ProblemType.PARAMETERS_REJECTED


class DigestMismatch(CoordinatorError):
    """The body's SHA-256 is not the announced one."""

    problem = ProblemType.DIGEST_MISMATCH


class EvaluationConflict(CoordinatorError):
    """The site has reported another evaluation of this version."""

    problem = ProblemType.EVALUATION_CONFLICT


class BodyTooLarge(CoordinatorError):
    """The body is larger than allowed."""

    problem = ProblemType.BODY_TOO_LARGE


class BodyTimeout(CoordinatorError):
    """The body did not arrive in time."""

    problem = ProblemType.BODY_TIMEOUT


class UnsupportedMediaType(CoordinatorError):
    """The body's media type is not supported."""

    problem = ProblemType.UNSUPPORTED_MEDIA_TYPE


class ImageRejected(CoordinatorError):
    """The body is not an image this service reads."""

    problem = ProblemType.IMAGE_REJECTED


class NoServingVersion(CoordinatorError):
    """The federation has no model version to answer with."""

    problem = ProblemType.NO_SERVING_VERSION


class InferenceUnavailable(CoordinatorError):
    """No inference runs here now."""

    problem = ProblemType.INFERENCE_UNAVAILABLE


class Overloaded(CoordinatorError):
    """The service has more work than it can take; trying again `retry_after_seconds` later is right."""

    problem = ProblemType.OVERLOADED

    def __init__(self, detail: str, *, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class StorageUnavailable(Overloaded):
    """The object store does not answer: nothing was acknowledged, and what it holds is unknown for now."""


class QuotaExceeded(CoordinatorError):
    """The caller has as much under way as one caller may; others are still served."""

    problem = ProblemType.QUOTA_EXCEEDED

    def __init__(self, detail: str, *, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class RateLimited(CoordinatorError):
    """The caller has asked too often of late; `retry_after_seconds` says when not any more."""

    problem = ProblemType.RATE_LIMITED

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class StorageExhausted(CoordinatorError):
    """The storage is full; nothing was acknowledged."""

    problem = ProblemType.STORAGE_EXHAUSTED


class ProtocolMismatch(CoordinatorError):
    """The caller's SDK speaks another version of the protocol."""

    problem = ProblemType.PROTOCOL_MISMATCH


class InternalError(CoordinatorError):
    """The coordinator failed; the cause is in its log under the request's id."""

    problem = ProblemType.INTERNAL_ERROR
