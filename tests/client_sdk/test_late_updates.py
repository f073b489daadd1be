"""A site that is slower than its federation: what it does with work that comes late, under each policy."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.client_sdk.harness import Coordinator
from tests.client_sdk.test_site import run_together
from tests.client_sdk.transports import Spy, is_update
from tests.messages import ASSIGNMENT, ROUND

from pfedbayespt.client import HttpAnswer, HttpRequest, events
from pfedbayespt.client.events import SiteEvent
from pfedbayespt.client.loop import _is_in_vain
from pfedbayespt.protocol import PROBLEM_MEDIA_TYPE, Assignment, ProblemType, SiteAction

PATIENCE_SECONDS = 60.0


def test_a_slow_sites_work_is_used_while_the_others_go_on(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    """The slow site stops in its first epoch until three versions are there, the others then until it is done."""
    mode = {"buffer_size": 2, "max_staleness": 5}
    coordinator.found(
        num_rounds=5, min_sites_to_start=3, evaluate=False, late_policy="buffer", asynchronous=mode
    )
    sites = [coordinator.enrol(tmp_path / name, name) for name in ("quick-a", "quick-b", "slow")]
    are_ahead, is_done = threading.Event(), threading.Event()
    seen: list[SiteEvent] = []

    def slowly(event: SiteEvent) -> None:
        seen.append(event)
        if isinstance(event, events.EpochFinished) and not are_ahead.is_set():
            assert are_ahead.wait(PATIENCE_SECONDS)
        if isinstance(event, events.UpdateSubmitted) and event.staleness:
            # It is done: in a further round the others might end the federation while it trains.
            sites[2].stop()
            is_done.set()

    def quickly(event: SiteEvent) -> None:
        if isinstance(event, events.RoundStarted) and event.round_number == 4:
            are_ahead.set()
            assert is_done.wait(PATIENCE_SECONDS)

    run_together(
        *[
            lambda site=site: site.run(images / "train", images / "held-out", on_event=quickly)
            for site in sites[:2]
        ],
        lambda: sites[2].run(images / "train", images / "held-out", on_event=slowly),
    )

    submitted = [event for event in seen if isinstance(event, events.UpdateSubmitted)]
    assert [event.staleness for event in submitted[:2]] == [0, 2]
    assert not [event for event in seen if isinstance(event, events.RoundLeft)]
    versions = coordinator.admin.model_versions.list("shapes")
    used = {part.update_id: part.weight for version in versions for part in version.inputs}
    assert 0 < used[submitted[1].update_id] < 0.5


def test_an_update_that_comes_too_early_for_the_next_round_is_kept_and_sent_again(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    refusals = iter([True, True])

    def too_early(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        if is_update(request) and next(refusals, False):
            kind = ProblemType.NO_OPEN_ROUND
            body = {"type": kind.urn, "title": kind.title, "status": kind.status, "detail": "not open yet"}
            return HttpAnswer(kind.status, {"content-type": PROBLEM_MEDIA_TYPE}, json.dumps(body).encode())
        return answer

    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    seen: list[SiteEvent] = []
    spy = Spy(after=too_early)
    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=spy)
    site.run(images / "train", images / "held-out", on_event=seen.append)

    assert len([event for event in seen if isinstance(event, events.UpdateWaits)]) == 2
    assert len([event for event in seen if isinstance(event, events.UpdateSubmitted)]) == 2
    assert spy.updates()[0] == spy.updates()[1] == spy.updates()[2]


def assigned(
    policy: str, action: str = "train", ahead: int | None = 0, status: str = "collecting"
) -> Assignment:
    """An assignment that comes while the site trains for round 4, from `ahead` rounds later; None: of no round."""
    fields: dict[str, Any] = json.loads(ASSIGNMENT.model_dump_json())
    fields["action"] = action
    fields["specification"]["rounds"]["late_policy"] = policy
    if policy == "buffer":
        fields["specification"]["rounds"]["asynchronous"] = {"buffer_size": 2}
    if ahead is None:
        fields["round"] = None
    elif ahead:
        fields["round"] |= {
            "round_id": "rnd_other",
            "round_number": ROUND.round_number + ahead,
            "status": status,
        }
    return Assignment.model_validate(fields)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        (assigned("drop"), False),
        (assigned("drop", ahead=1), True),
        (assigned("drop", "wait", ahead=None), True),
        (assigned("next_round", "wait", ahead=None), False),
        (assigned("next_round", ahead=1), False),
        (assigned("next_round", "evaluate", ahead=1, status="evaluating"), True),
        (assigned("next_round", ahead=2), True),
        (assigned("buffer", ahead=7), False),
        (assigned("buffer", "finished", ahead=None), True),
        (assigned("next_round", "finished", ahead=None), True),
    ],
)
def test_training_goes_on_as_long_as_a_round_will_count_it(assignment: Assignment, expected: bool) -> None:
    assert _is_in_vain(ROUND, assignment) is expected
    assert assignment.action in SiteAction
