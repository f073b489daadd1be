"""Lineage: from a model version, which every prediction names, back to the updates and sites behind it."""

from typing import Annotated

from pydantic import Field

from pfedbayespt.protocol._base import Digest, Message, Slug
from pfedbayespt.protocol.model_versions import VersionManifest
from pfedbayespt.protocol.statuses import RoundTask
from pfedbayespt.protocol.updates import NumExamples


class Ancestor(Message):
    """A version that another one started from."""

    version_number: int
    digest: Digest


class LineageInput(Message):
    """One update behind a version, and the site that it came from, if the caller may know."""

    update_id: str
    digest: Digest
    num_examples: NumExamples
    weight: Annotated[float, Field(gt=0.0, le=1.0)]
    site_id: str | None = Field(description="None: another organisation's.")
    site_name: Slug | None
    organisation: Slug | None


class Lineage(Message):
    """Where a version comes from."""

    federation: Slug
    version_number: int
    digest: Digest
    manifest: VersionManifest | None = Field(description="None: made by a release that did not sign yet.")
    round_id: str | None = Field(description="None: the initial parameters.")
    round_number: int | None
    task: RoundTask | None
    inputs: tuple[LineageInput, ...] = Field(description="In the order in which they were combined.")
    ancestors: tuple[Ancestor, ...] = Field(description="Back to version 0, the nearest first.")
