"""Calibration of a version's probabilities, from what sites tell of their held-out images: scores, never images.

A site's sketch holds at most 256 order statistics per score: of n sorted scores, those at ranks ceil(i n / m) for
i = 1..m. Each stands for n/m examples with that score or a lower one, so a quantile of pooled sketches is never too
low, and too high by at most 1/256 of a site's examples. Up to 256 examples the sketch is the scores themselves.

All entropies and likelihoods are in nats. `pbar` is the posterior predictive without personal parameters or any
class prior: what the coordinator itself would answer.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from pfedbayespt.protocol._base import Digest, Message, UtcTime

TEMPERATURES = tuple(round(2.0 ** (step / 8), 6) for step in range(-16, 17))
"""The grid on which sites evaluate the likelihood: 1/4 to 4."""
MAX_SKETCH_POINTS = 256

ConformalMethod = Literal["thr", "aps", "raps"]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
UnitShare = Annotated[float, Field(ge=0.0, le=1.0)]
Scores = Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1, max_length=MAX_SKETCH_POINTS)]


class CalibrationPolicy(Message):
    """What the members want of calibrated answers."""

    method: ConformalMethod = Field(
        default="thr",
        description="Score of the conformal set. `thr`: 1 - p_y; `aps`: the probability of what ranks above y, "
        "plus a random share of p_y; `raps`: `aps` plus a penalty for ranks beyond the free ones.",
    )
    target_coverage: Share = Field(
        default=0.9, description="Share of images whose conformal set holds the true class."
    )
    raps_free_ranks: Annotated[int, Field(ge=0)] = 3
    raps_penalty: NonNegativeFloat = 0.02
    target_risk: Share | None = Field(
        default=None,
        description="Abstain such that at most this share of the answers given is wrong, judged by total entropy.",
    )
    answered_share: Share | None = Field(
        default=None,
        description="Abstain on all but this share of images, those of the lowest total entropy.",
    )

    @model_validator(mode="after")
    def _one_rule_of_abstention(self) -> Self:
        if self.target_risk is not None and self.answered_share is not None:
            raise ValueError("give target_risk or answered_share, not both: either decides when to abstain")
        return self


class CalibrationSketch(Message):
    """What one site tells of a version on its held-out images."""

    num_examples: Annotated[int, Field(ge=1, le=10**9)]
    negative_log_likelihoods: tuple[NonNegativeFloat, ...] = Field(
        min_length=len(TEMPERATURES),
        max_length=len(TEMPERATURES),
        description="Mean of -log softmax(log pbar / T)_y for each T of the grid 2^(k/8), k = -16..16.",
    )
    scores: Scores = Field(description="Order statistics of the conformal score of the true class.")
    entropies: Scores = Field(description="Order statistics of the total entropy H(pbar).")
    error_shares: tuple[UnitShare, ...] = Field(
        max_length=MAX_SKETCH_POINTS,
        description="For each of `entropies`, the share of wrong answers among the examples it stands for.",
    )

    @model_validator(mode="after")
    def _sketches_fit(self) -> Self:
        if len(self.error_shares) != len(self.entropies):
            raise ValueError(f"{len(self.error_shares)} error_shares for {len(self.entropies)} entropies")
        for name in ("scores", "entropies"):
            values = getattr(self, name)
            if len(values) != min(self.num_examples, MAX_SKETCH_POINTS):
                raise ValueError(
                    f"{len(values)} {name} for {self.num_examples} examples; one each, at most {MAX_SKETCH_POINTS}"
                )
            if list(values) != sorted(values):
                raise ValueError(f"{name} must be sorted: they are order statistics")
        return self


class Threshold(Message):
    """What a conformal score must not exceed for its class to be in the set."""

    num_examples: int
    score: float | None = Field(
        description="None: too few examples for the target, so every class is in the set."
    )


class AbstainRule(Message):
    """Abstain where the total entropy is above a threshold."""

    total_entropy_nats: NonNegativeFloat | None = Field(
        description="None: no threshold meets the target risk, so every answer is an abstention."
    )
    expected_risk: UnitShare = Field(
        description="Share of wrong answers among those given, on the held-out images."
    )
    expected_answered_share: UnitShare


class Calibration(Message):
    """A version's calibration, pooled from the sketches of all sites that reported one."""

    version_number: int
    policy: CalibrationPolicy
    num_examples: int
    site_ids: tuple[str, ...] = Field(description="Whose sketches are in it, sorted.")
    temperature: PositiveFloat
    nll_before: float = Field(description="Mean negative log-likelihood at temperature 1.")
    nll_after: float = Field(description="The same at `temperature`.")
    threshold: Threshold = Field(description="Pooled: its coverage holds over all sites together.")
    site_thresholds: dict[str, Threshold] = Field(
        description="By site id, for predictions that a site of enough examples asks for: its coverage holds there."
    )
    abstain: AbstainRule | None

    def threshold_for(self, site_id: str | None) -> Threshold:
        """Return the threshold for answers to that site: its own if it has one, else the pooled one."""
        return self.site_thresholds.get(site_id or "", self.threshold)

    def abstains_at(self, total_entropy_nats: float) -> bool | None:
        """Return whether an answer of this entropy is not to be used; None: there is no rule."""
        if self.abstain is None:
            return None
        limit = self.abstain.total_entropy_nats
        return limit is None or total_entropy_nats > limit


class VersionCalibration(Message):
    """A calibration and the digest of its canonical JSON, which predictions name."""

    digest: Digest
    calibration: Calibration
    pooled_at: UtcTime
