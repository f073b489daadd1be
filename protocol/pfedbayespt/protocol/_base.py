"""What every message on the wire has in common.

Rules: messages are frozen; unknown fields are refused, so that a typo never passes silently; numbers are
finite; times are UTC; durations and sizes carry their unit in the name; entropies are in nats.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field


class Message(BaseModel):
    """A frozen message that refuses unknown fields and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _to_utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


_SLUG_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"

Slug = Annotated[
    str,
    Field(
        pattern=_SLUG_PATTERN,
        max_length=63,
        description="Lower-case letters, digits and inner hyphens; 1 to 63 characters.",
    ),
]
Digest = Annotated[
    str,
    Field(pattern=r"^sha256:[0-9a-f]{64}$", description="`sha256:` and 64 lower-case hexadecimal digits."),
]
UtcTime = Annotated[AwareDatetime, AfterValidator(_to_utc)]


def canonical_json(value: Message | dict[str, Any]) -> bytes:
    """Return the one byte string that stands for `value`: sorted keys, no blanks, UTF-8."""
    plain = value.model_dump(mode="json") if isinstance(value, Message) else value
    return json.dumps(
        plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest_of_bytes(content: bytes | bytearray | memoryview) -> str:
    """Return `sha256:<hex>` of `content`."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def digest_of_message(message: Message) -> str:
    """Return the digest of the message's canonical JSON."""
    return digest_of_bytes(canonical_json(message))
