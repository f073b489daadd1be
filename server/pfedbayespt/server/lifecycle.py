"""What every lifecycle has in common: a table of verbs, and one way to apply one.

Rules:
1. A status changes through `advance` only; each resource's `lifecycle.py` names the verbs.
2. `advance` is a compare-and-set: it changes the row that still has the status and the epoch that were read,
   and adds one to the epoch. Whoever read before that holds a stale epoch and loses (a fencing token).
3. The event is written in the same transaction, by the verb.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

from sqlalchemy import update

from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import LostRace, TransitionNotAllowed

Status = TypeVar("Status", bound=StrEnum)


@dataclass(frozen=True)
class Verb(Generic[Status]):
    """One kind of change: from where, and to where."""

    sources: frozenset[Status]
    target: Status


@dataclass(frozen=True)
class Lifecycle(Generic[Status]):
    """What one kind of object can go through."""

    subject: str
    initial: Status
    verbs: Mapping[str, Verb[Status]]

    def target(self, verb: str, current: Status, name: str) -> Status:
        """Return the status that `verb` leads to.

        Raises:
            TransitionNotAllowed: not from here; the message lists what is possible.
        """
        allowed = self.verbs[verb]
        if current not in allowed.sources:
            possible = [other for other, its in self.verbs.items() if current in its.sources]
            raise TransitionNotAllowed(
                f"{self.subject} {name} is {current}, so `{verb}` is not possible; "
                f"possible now: {', '.join(sorted(possible)) or 'nothing'}"
            )
        return allowed.target

    def edges(self) -> frozenset[tuple[Status, Status, str]]:
        """Return every (source, target, verb)."""
        return frozenset(
            (source, verb.target, name) for name, verb in self.verbs.items() for source in verb.sources
        )


def verb(sources: Iterable[Status], target: Status) -> Verb[Status]:
    """Return the verb that leads from any of `sources` to `target`."""
    return Verb(frozenset(sources), target)


def advance(tx: Transaction, lifecycle: Lifecycle[Any], row: Any, verb: str, **changes: object) -> None:
    """Apply `verb` to `row`, an ORM object with id, status and epoch; `changes` go to its other columns.

    Raises:
        TransitionNotAllowed: the table forbids it.
        LostRace: another transaction changed the row since it was read.
    """
    target = lifecycle.target(verb, row.status, row.id)
    model = type(row)
    moved = tx.session.execute(
        update(model)
        .where(model.id == row.id, model.status == row.status, model.epoch == row.epoch)
        .values(status=target, epoch=row.epoch + 1, **changes)
        .returning(model.id)
        .execution_options(synchronize_session=False)
    )
    if moved.first() is None:
        raise LostRace(f"{lifecycle.subject} {row.id} was changed by another at the same time; read it again")
    tx.session.refresh(row)
