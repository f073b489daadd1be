"""A trial: one model version beside the one that serves, before it may serve itself.

    canary    it answers for a sticky share of the callers or images (`answer_share`)
    shadow    it computes beside the serving version, and how far the two differ is recorded (`compare_share`)

A trial may do either or both. It ends by hand, by a promotion, or by itself when it errs or differs too much.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pfedbayespt.protocol._base import Message, Slug, UtcTime
from pfedbayespt.protocol.statuses import TrialStatus

UnitShare = Annotated[float, Field(ge=0.0, le=1.0)]
StickyBy = Literal["caller", "image"]


class TrialTerms(Message):
    """What a trial does, and what ends it.

    The bounds hold once `min_requests` were tried (errors) or compared (differences).
    """

    answer_share: UnitShare = Field(
        default=0.0, description="Share of requests that the version on trial answers: the canary."
    )
    compare_share: UnitShare = Field(
        default=1.0,
        description="Share of images that both versions compute, as far as turns are free: the shadow.",
    )
    sticky_by: StickyBy = Field(
        default="caller",
        description="What decides who answers, where a request has no `X-Sticky-Key`: who asks, or the image.",
    )
    min_requests: Annotated[int, Field(ge=1, le=10**9)] = Field(
        default=20, description="No bound ends the trial before so many."
    )
    max_error_share: UnitShare = Field(default=0.05, description="Of what the version on trial computed.")
    max_flip_share: UnitShare = Field(default=0.2, description="Share of images with another label.")
    max_mean_distance: UnitShare = Field(
        default=0.2, description="Mean total-variation distance: half the sum of |p - q| over the classes."
    )

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.answer_share and not self.compare_share:
            raise ValueError("answer_share and compare_share are both 0: the trial would try nothing")
        return self


class TrialCreate(TrialTerms):
    """The request to try a version."""

    model_version: Annotated[int, Field(ge=0, lt=2**31)]


class TrialTally(Message):
    """What has been seen so far."""

    num_tried: int = Field(description="How often the version on trial was to compute something.")
    num_errors: int = Field(description="How often it could not; the version that serves answered then.")
    num_answered: int = Field(description="Requests that it answered.")
    num_compared: int = Field(description="Images that both versions computed, with the same random numbers.")
    num_flips: int = Field(description="Those of them with another label.")
    num_skipped: int = Field(description="Images that were not compared, as no turn was free.")
    mean_distance: UnitShare | None = Field(description="Total variation; None: nothing was compared.")
    mean_trial_seconds: float | None = Field(description="What the version on trial took for an image.")
    mean_serving_seconds: float | None = Field(description="What the one that serves took for the same.")


class Trial(Message):
    """A trial and what it has shown."""

    trial_id: str
    federation: Slug
    model_version: int
    serving_version: int = Field(description="The one that served when the trial began.")
    status: TrialStatus
    terms: TrialTerms
    tally: TrialTally
    reason: str | None = Field(description="Why it ended; None: it has not.")
    started_at: UtcTime
    finished_at: UtcTime | None
