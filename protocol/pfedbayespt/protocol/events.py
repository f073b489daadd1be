"""What happened, in order: one event per state change, written in the transaction that made the change.

The events of a federation are a chain: hash_i = SHA-256(canonical JSON of {previous_hash: hash_(i-1), actor,
action, subject, details, occurred_at}), hash_0 = 64 zeros. Whoever keeps a hash can tell if anything before it
is changed.
"""

import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import Field, JsonValue

from pfedbayespt.protocol._base import Message, Slug, UtcTime, canonical_json

FIRST_HASH: Final = "0" * 64
EventHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Event(Message):
    """A state change."""

    event_id: int = Field(description="Increasing within the coordinator.")
    federation: Slug | None
    actor: str = Field(description="`admin`, `worker` or a site's id.")
    action: str = Field(examples=["round.published"])
    subject: str = Field(description="Id of the object that changed.")
    details: dict[str, JsonValue]
    occurred_at: UtcTime
    previous_hash: EventHash = Field(
        description="Of the federation's event before this one; 64 zeros: the first."
    )
    hash: EventHash

    def computed_hash(self) -> str:
        """Return what `hash` must be."""
        return event_hash(
            previous_hash=self.previous_hash,
            actor=self.actor,
            action=self.action,
            subject=self.subject,
            details=self.details,
            occurred_at=self.occurred_at,
        )


def event_hash(*, occurred_at: datetime, **content: Any) -> str:
    """Return the hash of an event with this content."""
    moment = occurred_at.astimezone(UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(canonical_json({**content, "occurred_at": moment})).hexdigest()
