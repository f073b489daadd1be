"""Real coordinator processes that start in a tenth of a second: a parent that has imported everything forks them.

The parent holds no database, no lock and no socket; a child opens its own after the fork, and runs what
`pfedbayespt coordinator run` runs. How long such a start takes says nothing about a real recovery: `cold.py` does.

One JSON object per line each way: {"do": "start", ...} -> {"pid": n}; {"do": "wait", "pid": n} -> {"status": s}.
"""

import ctypes
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

_DIES_WITH_ITS_PARENT = 1  # PR_SET_PDEATHSIG
_SIGKILL = 9


class Nursery:
    """The tests' side of the parent process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parent = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def start(self, settings: dict[str, Any], **options: Any) -> int:
        """Fork a child that serves with these settings, and return its process id."""
        return int(self._ask(do="start", settings=settings, **options)["pid"])

    def wait(self, pid: int, seconds: float = 0.0) -> int | None:
        """Return the wait status of a child that ends within that time, None of one that goes on."""
        status: int | None = self._ask(do="wait", pid=pid, seconds=seconds)["status"]
        return status

    def close(self) -> None:
        """End the parent; its children die with it."""
        self._parent.communicate()

    def _ask(self, **question: Any) -> dict[str, Any]:
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        with self._lock:
            self._parent.stdin.write(json.dumps(question) + "\n")
            self._parent.stdin.flush()
            answer: dict[str, Any] = json.loads(self._parent.stdout.readline())
        return answer


def _serve_questions() -> None:
    _warm_up()
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        question = json.loads(line)
        answer = {"start": _fork, "wait": _reap}[question.pop("do")](**question)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _warm_up() -> None:
    """Import all that a start needs, so that children only do what is theirs."""
    for name in ("alembic.command", "psycopg", "uvicorn.lifespan.on", "uvicorn.protocols.http.auto"):
        import_module(name)
    import_module("pfedbayespt.server.serving")


def _fork(settings: dict[str, Any], **options: Any) -> dict[str, Any]:
    pid = os.fork()
    if pid == 0:
        _live(settings, **options)
    return {"pid": pid}


def _reap(pid: int, seconds: float) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while True:
        reaped, status = os.waitpid(pid, os.WNOHANG)
        if reaped or time.monotonic() >= deadline:
            return {"status": status if reaped else None}
        time.sleep(0.002)


def _live(
    settings: dict[str, Any],
    log: str,
    failpoints: str = "",
    clock_ahead_seconds: float = 0.0,
    task: str = "run",
) -> None:
    """Be a coordinator, and never return into the parent's code."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_DIES_WITH_ITS_PARENT, _SIGKILL)
        _redirect(log)
        os.environ["PFEDBAYESPT_FAILPOINTS"] = failpoints
        if clock_ahead_seconds:
            _shift_clock(clock_ahead_seconds)
        from pfedbayespt import server
        from pfedbayespt.server import failpoints as points

        wanted = server.Settings(allow_failpoints=True, **settings)
        points.arm_from_environment(allowed=True)
        {"run": server.run, "upgrade": server.upgrade_database}[task](wanted)
        code = 0
    except BaseException:  # noqa: BLE001  (a fork must not run what its parent would do next)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _redirect(log: str) -> None:
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    source = os.open(os.devnull, os.O_RDONLY)
    os.dup2(source, 0)
    for descriptor in (1, 2):
        os.dup2(sink, descriptor)


def _shift_clock(seconds: float) -> None:
    """Put the process's own clock wrong, as Python code sees it; the database keeps its own."""
    import datetime as module

    real_time, real = time.time, module.datetime

    class Shifted(real):  # type: ignore[misc, valid-type]
        @classmethod
        def now(cls, tz: module.tzinfo | None = None) -> module.datetime:
            return real.now(tz) + module.timedelta(seconds=seconds)

    time.time = lambda: real_time() + seconds
    for name, loaded in list(sys.modules.items()):
        if name.startswith("pfedbayespt.server") and getattr(loaded, "datetime", None) is real:
            loaded.datetime = Shifted  # type: ignore[attr-defined]


if __name__ == "__main__":
    _serve_questions()
