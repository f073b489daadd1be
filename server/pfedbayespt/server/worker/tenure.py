"""Holding a round's lease while it is aggregated."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from pfedbayespt.server.context import Context
from pfedbayespt.server.errors import LostRace
from pfedbayespt.server.rounds import leases

_RENEWALS_PER_LEASE: Final = 3


@dataclass
class Tenure:
    """The lease of one round, held by this process. `clock` (monotonic seconds) only says when to hold it anew."""

    context: Context
    round_id: str
    actor: str
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._held_at = self.clock()

    def keep(self) -> None:
        """Hold the lease anew if a third of it is over; to be called often.

        Raises:
            LostRace: it expired, and another worker has it.
        """
        seconds = self.context.settings.aggregation_lease_seconds
        if self.clock() - self._held_at < seconds / _RENEWALS_PER_LEASE:
            return
        with self.context.database.write(self.actor) as tx:
            if not leases.hold(tx, self.round_id, self.context.worker_id, timedelta(seconds=seconds)):
                raise LostRace(f"round {self.round_id} is aggregated by another worker now")
        self._held_at = self.clock()

    @contextmanager
    def unless_it_fails(self) -> Iterator[None]:
        """Let go of the lease if the block raises, so that whoever tries next need not wait for it to expire."""
        try:
            yield
        except Exception:
            with self.context.database.write(self.actor) as tx:
                leases.release(tx, self.round_id, self.context.worker_id)
            raise
