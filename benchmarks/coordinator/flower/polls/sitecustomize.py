"""Flower's fixed sleeps of seconds, tuned: put on PYTHONPATH, this shortens them to FLOWER_POLL_SECONDS.

`HttpGrid.send_and_receive` has `time.sleep(3)`, with no setting for it (flwr 1.41).
"""

import os
import sys
import time

_sleep, _poll_seconds = time.sleep, float(os.environ["FLOWER_POLL_SECONDS"])


def _tuned(seconds: float) -> None:
    caller = sys._getframe(1).f_globals.get("__name__", "")  # noqa: SLF001  (who sleeps)
    _sleep(min(seconds, _poll_seconds) if caller.startswith("flwr.") else seconds)


time.sleep = _tuned
