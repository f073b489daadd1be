"""Places where a test has the process die, fail or stall, to see that nothing it acknowledged is lost.

Rules:
1. `failpoint(name)` does nothing in a process that is not armed; every name is in `FAILPOINTS`, and only there.
2. A process is armed at its start by the variable `PFEDBAYESPT_FAILPOINTS`: `name[@n]=action`, joined by commas.
   The n-th time that the point is reached (default: the first) the action happens, once.
3. Actions: `kill` (SIGKILL to the own process), `stop` (SIGSTOP), `raise` (FailpointError), `sleep:SECONDS`.
4. Start-up refuses the variable unless the setting `allow_failpoints` is on, which it never is in production.
"""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, NoReturn

VARIABLE: Final = "PFEDBAYESPT_FAILPOINTS"

FAILPOINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ingest.after_auth": "the caller is known and may submit; none of the body is read",
        "ingest.mid_body": "a chunk of the body has arrived",
        "blob.before_fsync": "a tensor file is written, but not durable",
        "blob.after_fsync": "the file is durable under its temporary name",
        "blob.after_rename": "the file has its name, whose entry in the folder is not durable",
        "ingest.after_put": "the update's file is kept; no row speaks of it",
        "ingest.before_commit": "the update's row is written, but not committed",
        "ingest.after_commit": "the update is committed; nothing is answered",
        "response.after_headers": "the head of an answer is sent, the body is not",
        "round.before_commit": "a round is started, but not committed",
        "round.after_commit": "a round is committed; nobody has been asked yet",
        "close.after_claim": "the round has left `collecting`; its inputs are not frozen",
        "close.before_commit": "the inputs are frozen, but not committed",
        "aggregate.after_plan": "the inputs are committed and read; nothing is computed",
        "aggregate.mid_file": "a tensor of the new version's file is written",
        "aggregate.after_put": "the version's file is kept; no row speaks of it",
        "recompose.before_commit": "damaged inputs are dropped, but this is not committed",
        "publish.after_candidate": "the version's row is written; the round still aggregates",
        "publish.before_commit": "the version and all that follows are written, but not committed",
        "publish.after_commit": "the version is committed",
        "evaluation.before_commit": "a site's evaluation is written, but not committed",
        "evaluation.after_commit": "the evaluation is committed; nothing is answered",
        "promotion.after_retire": "the version that served is retired; the next one is not promoted",
        "promotion.before_commit": "the candidate is judged, but this is not committed",
        "rollback.before_commit": "a version is promoted by hand, but this is not committed",
        "rollback.after_commit": "the version promoted by hand is committed; nothing is answered",
        "federation.before_commit": "a federation is activated or paused, but this is not committed",
        "federation.after_commit": "the federation's change is committed; nothing is answered",
        "serve.before_file": "a version is about to be sent",
        "serve.mid_file": "some of a version's file is sent",
        "migration.before_commit": "the schema is changed, but this is not committed",
    }
)
_ENTRY: Final = re.compile(
    r"(?P<name>[a-z._]+)(?:@(?P<hit>[1-9][0-9]*))?=(?P<action>kill|stop|raise|sleep:(?P<seconds>[0-9.]+))"
)


class FailpointError(Exception):
    """What the action `raise` raises: no code of ours expects it."""


class FailpointsRefusedError(RuntimeError):
    """The process is asked to fail, and must not be, or does not understand how."""


@dataclass
class _Armed:
    """One point's action, and how often the point is yet to be reached before it happens."""

    act: Callable[[str], None]
    hits_left: int
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reach(self, name: str) -> None:
        with self._lock:
            self.hits_left -= 1
            is_due = self.hits_left == 0
        if is_due:
            self.act(name)


_armed: dict[str, _Armed] = {}  # of this process, as a death is


def failpoint(name: str) -> None:
    """Do nothing, unless this process was armed to fail here."""
    armed = _armed.get(name)
    if armed is not None:
        armed.reach(name)


def arm_from_environment(*, allowed: bool) -> None:
    """Arm this process as `PFEDBAYESPT_FAILPOINTS` says, if it is there.

    Raises:
        FailpointsRefusedError: it is there and not `allowed`, or it is malformed.
    """
    plan = os.environ.get(VARIABLE)
    if not plan:
        return
    if not allowed:
        raise FailpointsRefusedError(
            f"{VARIABLE} is set, which makes this process fail on purpose; unset it. Only a test that loses no "
            "data may allow it, with PFEDBAYESPT_ALLOW_FAILPOINTS=true"
        )
    arm(plan)


def arm(plan: str) -> None:
    """Replace what this process is armed with; an empty plan disarms it.

    Raises:
        FailpointsRefusedError: the plan is malformed or names an unknown point; nothing has changed.
    """
    armed = dict(map(_parsed, plan.split(","))) if plan else {}
    _armed.clear()
    _armed.update(armed)


def _parsed(entry: str) -> tuple[str, _Armed]:
    match = _ENTRY.fullmatch(entry.strip())
    if match is None:
        raise FailpointsRefusedError(
            f"{entry!r} is no failpoint; allowed: name[@n]=kill|stop|raise|sleep:SECONDS"
        )
    if match["name"] not in FAILPOINTS:
        raise FailpointsRefusedError(
            f"there is no failpoint {match['name']!r}; there are: {', '.join(FAILPOINTS)}"
        )
    return match["name"], _Armed(_action(match["action"], match["seconds"]), int(match["hit"] or 1))


def _action(action: str, seconds: str | None) -> Callable[[str], None]:
    if seconds is not None:
        return lambda _: time.sleep(float(seconds))
    return {"kill": _kill, "stop": _stop, "raise": _raise}[action]


def _kill(_: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(_: str) -> None:
    # To this very thread: a signal to the process is noticed by another, while this one may go on a little.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _raise(name: str) -> NoReturn:
    raise FailpointError(f"failpoint {name}")
