"""What happened, in order: one event per state change, written in the transaction that made the change."""

from pydantic import Field, JsonValue

from pfedbayespt.protocol._base import Message, Slug, UtcTime


class Event(Message):
    """A state change."""

    event_id: int = Field(description="Increasing within the coordinator.")
    federation: Slug | None
    actor: str = Field(description="`admin`, `worker` or a site's id.")
    action: str = Field(examples=["round.published"])
    subject: str = Field(description="Id of the object that changed.")
    details: dict[str, JsonValue]
    occurred_at: UtcTime
