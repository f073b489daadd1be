"""A site's update: a safetensors file of parameter deltas whose manifest travels inside it.

One file, one digest: the manifest is the single metadata entry of the safetensors header, so whoever holds the
file can read who sent what, for which round, without reading a tensor.
"""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field

from pfedbayespt.protocol._base import Digest, Message, Slug, UtcTime
from pfedbayespt.protocol.signatures import SignedMessage
from pfedbayespt.protocol.statuses import RoundTask, UpdateStatus
from pfedbayespt.protocol.tensors import TensorSchema

MetricName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
# Strict: what a site signed and what its file says must be the same text, and "10" or true is not 10.
NumExamples = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Metrics = Annotated[dict[MetricName, float], Field(max_length=32)]


class UpdateManifest(Message):
    """What an update says about itself."""

    format: Literal["pfedbayespt.update/1"] = "pfedbayespt.update/1"
    federation: Slug
    round_id: str = Field(max_length=64)
    task: RoundTask
    base_digest: Digest = Field(description="Digest of the model version the delta starts from.")
    num_examples: NumExamples = Field(description="Training examples behind the delta.")
    metrics: Metrics = Field(default={}, description="Training metrics, finite numbers.")


Nonce = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$", description="128 random bits.")]
STATEMENT_HEADER: Final = "Update-Statement"
"""Carries `base64url(JSON)` of an `UpdateStatement`, so that it is checked before the body is read."""


class UpdateStatement(SignedMessage):
    """What a site signs about an update: without its key, nobody can submit one in its name."""

    purpose: ClassVar[str] = "pfedbayespt.update-statement/1"

    federation: Slug
    round_id: str = Field(max_length=64)
    site_id: str = Field(max_length=64)
    base_digest: Digest
    update_digest: Digest
    num_examples: NumExamples
    nonce: Nonce


class Receipt(SignedMessage):
    """The coordinator's signed acknowledgement: from here on the update is never lost (promise P1).

    `audit_head` is the hash of the event that recorded the acceptance, the head of the federation's chain then:
    whoever keeps the receipt can tell if anything before it is changed later.
    """

    purpose: ClassVar[str] = "pfedbayespt.receipt/1"

    federation: Slug
    update_id: str
    round_id: str
    site_id: str
    digest: Digest
    size_bytes: int
    staleness: int = Field(
        default=0,
        ge=0,
        description="Versions between the update's base and that of the round in which it counts.",
    )
    received_at: UtcTime
    audit_head: str = Field(pattern=r"^[0-9a-f]{64}$")


class Update(Message):
    """An update as an admin sees it."""

    update_id: str
    round_id: str = Field(
        description="The round in which it counts; `manifest.round_id` is the one it was made for."
    )
    site_id: str
    status: UpdateStatus
    digest: Digest
    size_bytes: int
    manifest: UpdateManifest | None = Field(description="None: quarantined, and too broken to tell.")
    tensors: TensorSchema = Field(description="Empty: quarantined, and too broken to tell.")
    delta_norm: float | None = Field(description="Euclidean norm over all tensors.")
    verdict: str | None = Field(description="Why it was quarantined or discarded.")
    staleness: int = Field(default=0, ge=0, description="As in its receipt.")
    weight: float | None = Field(description="Its share in the aggregate, once aggregated.")
    statement: UpdateStatement | None = Field(default=None, description="What the site signed.")
    received_at: UtcTime
    payload_retired_at: UtcTime | None = Field(
        default=None, description="Since then its file is no longer kept; all that is said of it is."
    )
