"""The table `federations`: one row per collaboration; the specification never changes."""

from datetime import datetime
from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from pfedbayespt.protocol import (
    FederationSpecification,
    FederationStatus,
    FederationTerms,
    RoundPolicy,
    TensorSchema,
    TensorSpec,
)
from pfedbayespt.server.orm import Base, enum_column


class FederationRecord(Base):
    """A federation."""

    __tablename__ = "federations"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(63), unique=True)
    status: Mapped[FederationStatus] = mapped_column(enum_column(FederationStatus, "status"))
    epoch: Mapped[int] = mapped_column(default=0)
    specification: Mapped[dict[str, Any]]
    specification_digest: Mapped[str] = mapped_column(String(71))
    # The coordinator's signed word for the two above; None: made by a release that did not sign yet.
    terms: Mapped[dict[str, Any] | None]
    # Set once, with the initial parameters: what every later parameters file and update must look like.
    tensor_schema: Mapped[list[dict[str, Any]] | None]
    created_at: Mapped[datetime]

    @property
    def agreed(self) -> FederationSpecification:
        """What the members agreed to."""
        return FederationSpecification.model_validate(self.specification)

    @property
    def signed_terms(self) -> FederationTerms | None:
        """The coordinator's signed word for the specification."""
        return FederationTerms.model_validate(self.terms) if self.terms else None

    @property
    def policy(self) -> RoundPolicy:
        """The rules of its rounds."""
        return self.agreed.rounds

    @property
    def schema(self) -> TensorSchema:
        """The tensors of its parameters files and updates, sorted by name; empty before the initial ones."""
        return tuple(TensorSpec.model_validate(spec) for spec in self.tensor_schema or ())
