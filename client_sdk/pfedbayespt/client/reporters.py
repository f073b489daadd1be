"""Observers that tell people: progress bars on a terminal, one log line per event elsewhere."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import singledispatch

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pfedbayespt.client import events

logger = logging.getLogger("pfedbayespt.site")


@contextmanager
def reporting(console: Console) -> Iterator[events.Observer]:
    """Yield an observer for a running site: bars if `console` is a terminal, log lines if not."""
    if not console.is_terminal:
        yield report_to_log
        return
    with _progress(console) as progress:
        yield _TerminalReporter(progress)


def report_to_log(event: events.SiteEvent) -> None:
    """Write one line per event that a person may want to read later."""
    level = _LEVELS.get(type(event), logging.INFO)
    logger.log(level, "%s", describe(event))


@singledispatch
def describe(event: events.SiteEvent) -> str:
    """Return one line about `event`."""
    return type(event).__name__


@describe.register
def _(event: events.SiteStarted) -> str:
    return (
        f"site {event.site_name} of federation {event.federation}: {event.num_training_images} training and "
        f"{event.num_held_out_images} held-out images, on {event.device}"
    )


@describe.register
def _(event: events.ImagesEncoded) -> str:
    return f"encoded {event.num_done} of {event.num_images} images"


@describe.register
def _(event: events.RoundStarted) -> str:
    return f"round {event.round_number}: {event.task}"


@describe.register
def _(event: events.EpochFinished) -> str:
    return f"round {event.round_number}, epoch {event.epoch}/{event.num_epochs}: {figures(event.metrics)}"


@describe.register
def _(event: events.UpdateSubmitted) -> str:
    size = f"{event.size_bytes / 1e6:.2f} MB"
    late = f", {event.staleness} versions behind" if event.staleness else ""
    return f"update {event.update_id} acknowledged, {size}, {event.digest[:15]}{late}"


@describe.register
def _(event: events.UpdateWaits) -> str:
    return f"the update waits for the next round: {event.reason}"


@describe.register
def _(event: events.UpdateNotTaken) -> str:
    return f"the update was not taken: {event.reason}"


@describe.register
def _(event: events.RoundLeft) -> str:
    return f"round {event.round_number} ended before this site had finished; its work is thrown away"


@describe.register
def _(event: events.VersionEvaluated) -> str:
    return f"version {event.model_version} on {event.num_examples} held-out images: {figures(event.metrics)}"


@describe.register
def _(event: events.EvaluationNotTaken) -> str:
    return f"the evaluation of version {event.model_version} was not taken: {event.reason}"


@describe.register
def _(event: events.Waiting) -> str:
    return f"nothing to do; asking again in {event.seconds:.1f} s"


@describe.register
def _(event: events.CoordinatorUnreachable) -> str:
    return f"{event.reason}; trying again in {event.retry_in_seconds:.0f} s"


@describe.register
def _(event: events.SiteFinished) -> str:
    return "stopped on request" if event.stopped else "the federation is complete"


def figures(metrics: Mapping[str, float]) -> str:
    """Return metrics as `name value` pairs."""
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())


_LEVELS: Mapping[type, int] = {
    events.Waiting: logging.DEBUG,
    events.ImagesEncoded: logging.DEBUG,
    events.UpdateWaits: logging.DEBUG,
    events.UpdateNotTaken: logging.WARNING,
    events.RoundLeft: logging.WARNING,
    events.CoordinatorUnreachable: logging.WARNING,
}


_TERMS = ("nll", "kl", "gain")  # of the bound: what is fitted, its price, what implicitness gives back


class _TerminalReporter:
    """Shows what is going on in one moving line, and prints what stays worth reading."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None)
        self._num_images = 0
        self._began_at = 0.0  # the round's local work, as far as this process does it
        self._num_epochs_seen = 0

    def __call__(self, event: events.SiteEvent) -> None:
        match event:
            case events.ImagesEncoded():
                self._show("encoding images", event.num_done, event.num_images)
            case events.RoundStarted():
                self._begin(f"round {event.round_number}: {event.task}", event.num_epochs)
            case events.EpochFinished():
                self._show(self._training(event), event.epoch, event.num_epochs)
            case events.Waiting() | events.UpdateWaits():
                self._show("waiting for the other sites", None, None)
            case events.SiteStarted():
                self._num_images = event.num_training_images
                self._say(event)
            case _:
                self._say(event)

    def _say(self, event: events.SiteEvent) -> None:
        self._progress.console.print(describe(event), highlight=False, markup=False)

    def _begin(self, text: str, num_epochs: int) -> None:
        self._progress.reset(self._task, description=text, total=num_epochs)
        self._began_at, self._num_epochs_seen = self._progress.get_time(), 0

    def _training(self, event: events.EpochFinished) -> str:
        """Return the round, the terms of the loss and the throughput."""
        self._num_epochs_seen += 1
        seconds = max(self._progress.get_time() - self._began_at, 1e-9)
        rate = self._num_epochs_seen * self._num_images / seconds
        terms = figures({name: event.metrics[name] for name in _TERMS if name in event.metrics})
        return ", ".join(
            filter(None, (f"round {event.round_number}: training", terms, f"{rate:.0f} images/s"))
        )

    def _show(self, text: str, done: int | None, total: int | None) -> None:
        self._progress.update(self._task, description=text, completed=done, total=total)


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)
