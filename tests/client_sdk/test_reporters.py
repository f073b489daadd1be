"""What people see of a running site."""

import io
import logging
import re

import pytest
from rich.console import Console

from pfedbayespt.client import events
from pfedbayespt.client.reporters import describe, report_to_log, reporting
from pfedbayespt.protocol import RoundTask

EVERY_KIND: list[events.SiteEvent] = [
    events.SiteStarted("clinic-a", "shapes", 24, 12, "cpu"),
    events.ImagesEncoded(12, 24),
    events.RoundStarted(2, RoundTask.TRAINING, 3),
    events.EpochFinished(2, 1, 3, {"loss": 0.51234567, "accuracy": 0.75}),
    events.UpdateSubmitted("upd_1", "sha256:" + "a" * 64, 26_000, {"loss": 0.5}),
    events.UpdateWaits("round 3 is not open yet"),
    events.UpdateNotTaken("round 2 closed"),
    events.RoundLeft(2),
    events.VersionEvaluated(3, 12, {"accuracy": 0.75}),
    events.EvaluationNotTaken(3, "it is decided"),
    events.Waiting(1.0),
    events.CoordinatorUnreachable("the network is down", 4.0),
    events.SiteFinished(stopped=False),
]


def test_every_kind_of_event_is_in_the_list_and_has_words_of_its_own() -> None:
    assert {type(event) for event in EVERY_KIND} == set(events.SiteEvent.__args__)
    assert [event for event in EVERY_KIND if describe(event) == type(event).__name__] == []


def test_figures_are_short_and_named() -> None:
    assert describe(EVERY_KIND[3]) == "round 2, epoch 1/3: loss 0.5123, accuracy 0.75"


def test_a_late_update_says_how_stale_it_is() -> None:
    late = events.UpdateSubmitted("upd_1", "sha256:" + "a" * 64, 26_000, {}, staleness=3)
    assert describe(late) == "update upd_1 acknowledged, 0.03 MB, sha256:aaaaaaaa, 3 versions behind"


def test_the_log_has_a_line_per_event_and_trouble_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "pfedbayespt.site"):
        for event in EVERY_KIND:
            report_to_log(event)
    levels = {record.getMessage(): record.levelname for record in caplog.records}
    assert len(levels) == len(EVERY_KIND)
    assert levels["the network is down; trying again in 4 s"] == "WARNING"
    assert levels["nothing to do; asking again in 1.0 s"] == "DEBUG"


def test_a_terminal_shows_bars_and_keeps_what_is_worth_reading() -> None:
    screen = io.StringIO()
    with reporting(Console(file=screen, force_terminal=True, width=100)) as observer:
        for event in EVERY_KIND:
            observer(event)
    assert "version 3 on 12 held-out images: accuracy 0.75" in screen.getvalue()
    assert "update upd_1 acknowledged" in screen.getvalue()


def test_a_terminal_shows_the_terms_of_the_loss_the_throughput_and_the_time_that_is_left() -> None:
    now = iter(range(0, 10_000, 2))
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=200, get_time=lambda: float(next(now)))
    metrics = {"loss": 2.5, "nll": 2.25, "kl": 0.5, "gain": 0.125, "accuracy": 0.5}
    with reporting(console) as observer:
        observer(events.SiteStarted("clinic-a", "shapes", 24, 12, "cpu"))
        observer(events.RoundStarted(2, RoundTask.TRAINING, 3))
        observer(events.EpochFinished(2, 1, 3, metrics))
        observer(events.EpochFinished(2, 2, 3, metrics))
    seen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    assert re.search(
        r"round 2: training, nll 2.25, kl 0.5, gain 0.125, \d+ images/s .* 2/3 0:\d\d:\d\d 0:\d\d:\d\d", seen
    )


def test_without_a_terminal_the_log_is_used() -> None:
    with reporting(Console(file=io.StringIO())) as observer:
        assert observer is report_to_log
