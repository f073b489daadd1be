"""What a fake coordinator remembers, and how it says no."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from pfedbayespt.protocol import (
    ModelVersionStatus,
    ProblemType,
    Receipt,
    RoundStatus,
    RoundTask,
    Site,
    SiteEvaluation,
    SiteKey,
    UpdateManifest,
    VersionManifest,
)

Arrays = Mapping[str, "np.ndarray[Any, Any]"]


class Refusal(Exception):  # noqa: N818 - named for what it is: an answer
    """A request is answered with a problem."""

    def __init__(self, problem: ProblemType, detail: str, **extensions: str) -> None:
        super().__init__(detail)
        self.problem = problem
        self.detail = detail
        self.extensions = extensions


@dataclass
class Member:
    """A site, its live keys by their ids, and those that are retired."""

    site: Site
    keys: dict[str, SiteKey]
    retired: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Accepted:
    """An update that counts."""

    manifest: UpdateManifest
    arrays: Arrays
    receipt: Receipt


@dataclass
class Version:
    """A model version and its file."""

    number: int
    content: bytes
    manifest: VersionManifest
    status: ModelVersionStatus
    evaluations: dict[str, SiteEvaluation] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The digest of the file."""
        return self.manifest.digest


@dataclass
class LiveRound:
    """A round and the updates that count in it, by site."""

    number: int
    round_id: str
    task: RoundTask
    base: Version
    cohort: tuple[str, ...]
    started_at: datetime
    status: RoundStatus = RoundStatus.COLLECTING
    updates: dict[str, Accepted] = field(default_factory=dict)
    result: Version | None = None
