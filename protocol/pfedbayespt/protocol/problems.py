"""Problem details (RFC 9457): every error answer of the coordinator, and the one list of their kinds.

The server's and the SDK's exception trees carry one class per kind, with the same name; tests prove that the
three sets are equal. `docs/reference/problems.md` explains each kind to people.
"""

from dataclasses import dataclass
from enum import Enum

from pydantic import ConfigDict, Field, JsonValue

from pfedbayespt.protocol._base import Message

PROBLEM_MEDIA_TYPE = "application/problem+json"
_URN_PREFIX = "urn:pfedbayespt:problem:"


@dataclass(frozen=True)
class ProblemKind:
    """The HTTP status and the title of one kind of problem."""

    status: int
    title: str


class ProblemType(Enum):
    """Every kind of problem. The member's name is the exception's name in capitals."""

    INVALID_REQUEST = ProblemKind(422, "The request does not have the documented form")
    AUTHENTICATION_REQUIRED = ProblemKind(401, "Valid credentials are required")
    PERMISSION_DENIED = ProblemKind(403, "These credentials do not allow this")
    NOT_FOUND = ProblemKind(404, "No such object")
    METHOD_NOT_ALLOWED = ProblemKind(405, "The resource does not support this method")
    ALREADY_EXISTS = ProblemKind(409, "An object of this name exists already")
    ENROLMENT_TOKEN_REFUSED = ProblemKind(403, "The enrolment token is unknown, used or expired")
    SIGNATURE_REJECTED = ProblemKind(403, "The signature does not hold for this request")
    TRANSITION_NOT_ALLOWED = ProblemKind(409, "The object's state does not allow this")
    ROUND_CLOSED = ProblemKind(409, "The round no longer takes updates")
    NO_OPEN_ROUND = ProblemKind(409, "The update is late, and the round in which it counts is not open yet")
    UPDATE_TOO_STALE = ProblemKind(409, "The update's base version is too old to be built on")
    NOT_IN_COHORT = ProblemKind(403, "The site is not asked in this round")
    UPDATE_CONFLICT = ProblemKind(409, "The site has submitted another update in this round")
    UPDATE_REJECTED = ProblemKind(422, "The update fails a check and is quarantined")
    PARAMETERS_REJECTED = ProblemKind(422, "The parameters file fails a check")
    DIGEST_MISMATCH = ProblemKind(422, "The body's SHA-256 is not the announced one")
    EVALUATION_CONFLICT = ProblemKind(409, "The site has reported another evaluation of this version")
    BODY_TOO_LARGE = ProblemKind(413, "The body is larger than allowed")
    BODY_TIMEOUT = ProblemKind(408, "The body did not arrive in time")
    UNSUPPORTED_MEDIA_TYPE = ProblemKind(415, "The body's media type is not supported")
    IMAGE_REJECTED = ProblemKind(422, "The body is not an image this service reads")
    NO_SERVING_VERSION = ProblemKind(409, "The federation has no model version to answer with")
    INFERENCE_UNAVAILABLE = ProblemKind(503, "No inference runs here now")
    QUOTA_EXCEEDED = ProblemKind(429, "This caller has as much under way as one caller may")
    RATE_LIMITED = ProblemKind(429, "Too many requests of late")
    OVERLOADED = ProblemKind(503, "The service has more work than it can take")
    STORAGE_EXHAUSTED = ProblemKind(507, "The coordinator's storage is full; nothing was acknowledged")
    PROTOCOL_MISMATCH = ProblemKind(426, "The two sides speak different versions of the protocol")
    INTERNAL_ERROR = ProblemKind(500, "The coordinator failed")

    @property
    def urn(self) -> str:
        """The `type` member of the problem document."""
        return _URN_PREFIX + self.name.lower()

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value.status

    @property
    def title(self) -> str:
        """The short, fixed summary."""
        return self.value.title

    @classmethod
    def from_urn(cls, urn: str) -> "ProblemType | None":
        """Return the kind that `urn` names, or None for one this release does not know."""
        return next((kind for kind in cls if kind.urn == urn), None)


class Problem(Message):
    """A problem document. `detail` says what was wrong with this request and what is allowed."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:pfedbayespt:problem:round_closed"])
    title: str
    status: int
    detail: str
    instance: str | None = Field(default=None, description="The request's id, as in the X-Request-Id header.")
    errors: tuple[dict[str, JsonValue], ...] = Field(
        default=(), description="For `invalid_request`: where and why, one entry per fault."
    )
