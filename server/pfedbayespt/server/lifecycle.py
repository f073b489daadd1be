"""What every lifecycle has in common: a table of transitions, and one way to make one.

Rules:
1. A status changes through `advance` only; each resource's `lifecycle.py` names the verbs.
2. `advance` is a compare-and-set: it changes the row that still has the status and the epoch that were read, and adds one
   to the epoch. Whoever read before that holds a stale epoch and loses (a fencing token).
3. The event is written in the same transaction, by the verb.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from sqlalchemy import update
from sqlalchemy.orm import Mapped

from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import LostRace, TransitionNotAllowed

Status = TypeVar("Status", bound=StrEnum)


@dataclass(frozen=True)
class Lifecycle(Generic[Status]):
    """Which status may follow which, for one kind of object."""

    subject: str
    initial: Status
    transitions: Mapping[Status, frozenset[Status]]

    def require(self, current: Status, target: Status, name: str) -> None:
        """Return if `target` may follow `current`.

        Raises:
            TransitionNotAllowed: it may not; the message lists what may.
        """
        allowed = sorted(self.transitions[current])
        if target not in allowed:
            raise TransitionNotAllowed(
                f"{self.subject} {name} is {current} and cannot become {target}; "
                f"from here it can become: {', '.join(allowed) or 'nothing else'}"
            )


class Stateful(Protocol[Status]):
    """A row with a lifecycle."""

    id: Mapped[str]
    status: Mapped[Status]
    epoch: Mapped[int]


def advance(
    tx: Transaction, lifecycle: Lifecycle[Status], row: Any, target: Status, **changes: object
) -> None:
    """Move `row` to `target`, together with `changes` to its other columns.

    Raises:
        TransitionNotAllowed: the table forbids it.
        LostRace: another transaction changed the row since it was read.
    """
    lifecycle.require(row.status, target, row.id)
    model = type(row)
    moved = tx.session.execute(
        update(model)
        .where(model.id == row.id, model.status == row.status, model.epoch == row.epoch)
        .values(status=target, epoch=row.epoch + 1, **changes)
        .execution_options(synchronize_session=False)
    )
    if moved.rowcount != 1:  # type: ignore[attr-defined]
        raise LostRace(f"{lifecycle.subject} {row.id} was changed by another at the same time; read it again")
    tx.session.refresh(row)
