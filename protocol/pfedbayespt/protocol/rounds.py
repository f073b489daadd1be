"""A round: one collect, aggregate, publish cycle."""

from pydantic import Field

from pfedbayespt.protocol._base import Digest, Message, Slug, UtcTime
from pfedbayespt.protocol.statuses import RoundStatus, RoundTask


class Round(Message):
    """A round as the coordinator knows it."""

    round_id: str
    federation: Slug
    round_number: int = Field(ge=1)
    task: RoundTask
    status: RoundStatus
    base_version: int = Field(description="Number of the model version that sites train from.")
    base_digest: Digest
    result_version: int | None = Field(description="Number of the model version it led to.")
    quorum: int
    cohort: tuple[str, ...] = Field(
        description="Ids of the sites that are asked; in a site's assignment, its own alone."
    )
    updates_accepted: int
    updates_quarantined: int
    abandoned_reason: str | None = None
    started_at: UtcTime
    deadline_at: UtcTime
    finished_at: UtcTime | None
