"""A round as each of its sites lived it: asked, training, uploading, accepted or quarantined, evaluated.

What the coordinator knows of a site between being asked and its update is that it asks what to do, and that a body
is under way: so `training` ends where an update begins to arrive.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pfedbayespt.protocol import Round, RoundStatus, Site, SiteEvaluation, Update, UpdateStatus

_LABEL_SPACE: Final = 1.08  # the chart ends a little after the last mark


@dataclass(frozen=True)
class Mark:
    """Something that happened to a site's part at one time; `at` is a share of the chart's width."""

    kind: str
    at: float
    time: datetime
    note: str


@dataclass(frozen=True)
class Lane:
    """One site's part in a round; `worked_until` is a share of the chart's width."""

    site: Site
    state: str
    reason: str | None
    worked_until: float
    took: timedelta | None
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Timeline:
    """All lanes on one scale of time, from the round's start to its end or to now."""

    lanes: tuple[Lane, ...]
    start: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """How much time the chart shows."""
        return (self.end - self.start).total_seconds()


def timeline_of(
    round_: Round,
    sites: Mapping[str, Site],
    updates: Sequence[Update],
    evaluations: Sequence[SiteEvaluation],
    uploading: Collection[str],
    now: datetime,
) -> Timeline:
    """Return the round's timeline, sites by name; `uploading` are those whose bodies are under way."""
    times = [update.received_at for update in updates] + [report.reported_at for report in evaluations]
    end = max([round_.finished_at or now, *times])
    length = max((end - round_.started_at).total_seconds(), 1.0) * _LABEL_SPACE
    chart = _Chart(round_, length, now)
    lanes = [
        chart.lane(
            sites[site_id],
            [update for update in updates if update.site_id == site_id],
            [report for report in evaluations if report.site_id == site_id],
            is_uploading=site_id in uploading,
        )
        for site_id in sorted(sites.keys() & set(round_.cohort), key=lambda site_id: sites[site_id].site_name)
    ]
    return Timeline(tuple(lanes), round_.started_at, round_.started_at + timedelta(seconds=length))


@dataclass(frozen=True)
class _Chart:
    round: Round
    length: float
    now: datetime

    def lane(
        self, site: Site, updates: list[Update], evaluations: list[SiteEvaluation], *, is_uploading: bool
    ) -> Lane:
        marks = [
            Mark(_kind(update), self._at(update.received_at), update.received_at, update.verdict or "")
            for update in updates
        ]
        marks += [
            Mark("evaluated", self._at(report.reported_at), report.reported_at, "") for report in evaluations
        ]
        counted = next((each for each in updates if each.status != UpdateStatus.QUARANTINED), None)
        last = counted or (updates[-1] if updates else None)
        ended = counted.received_at if counted else self.round.finished_at or self.now
        return Lane(
            site=site,
            state=_state(self.round, site, last, is_uploading=is_uploading),
            reason=last.verdict if last else None,
            worked_until=self._at(ended),
            took=counted.received_at - self.round.started_at if counted else None,
            marks=tuple(sorted(marks, key=lambda mark: mark.time)),
        )

    def _at(self, time: datetime) -> float:
        return min(1.0, max(0.0, (time - self.round.started_at).total_seconds() / self.length))


def _kind(update: Update) -> str:
    taken = {UpdateStatus.ACCEPTED, UpdateStatus.AGGREGATED}
    return "accepted" if update.status in taken else update.status.value


def _state(round_: Round, site: Site, last: Update | None, *, is_uploading: bool) -> str:
    """Return one word for where the site stands in the round."""
    if is_uploading:
        return "uploading"
    if last is not None:
        return last.status.value
    if round_.status != RoundStatus.COLLECTING:
        return "nothing came"
    was_here = site.last_seen_at is not None and site.last_seen_at >= round_.started_at
    return "training" if was_here else "asked"
