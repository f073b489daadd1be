"""What holds even where a lock is forgotten: compare-and-set on status and on epoch, and each unique constraint.

Locks keep most of these races from happening, so each is brought about here by hand, behind the locks' back.
"""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError
from tests.contracts.test_rounds import close_round, found, training_round
from tests.server.harness import Coordinator

from pfedbayespt.server.errors import LostRace
from pfedbayespt.server.rounds import lifecycle, progress
from pfedbayespt.server.rounds import repository as rounds
from pfedbayespt.server.rounds.progress import AggregationPlan
from pfedbayespt.server.schema import METADATA

CHANGES = {
    "status alone": "UPDATE rounds SET status = 'evaluating' WHERE id = :id",
    "epoch alone": "UPDATE rounds SET epoch = epoch + 1 WHERE id = :id",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_verb_moves_only_the_status_and_the_epoch_that_were_read(
    coordinator: Coordinator, change: str
) -> None:
    round_id = round_to_aggregate(coordinator)

    def recompose_late() -> None:
        with coordinator.context.database.write("worker") as tx:
            round_ = found(rounds.by_id(tx, round_id))
            tx.session.execute(text(change), {"id": round_id})  # as if another transaction had
            lifecycle.recompose(tx, round_, 1)

    with pytest.raises(LostRace, match="changed by another at the same time"):
        recompose_late()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_plan_counts_only_while_the_round_aggregates_at_the_plans_epoch(
    coordinator: Coordinator, change: str
) -> None:
    round_id = round_to_aggregate(coordinator)
    database = coordinator.context.database
    with database.read() as tx:
        plan = progress.plan(tx, found(rounds.by_id(tx, round_id)))
    with database.write("worker") as tx:
        tx.session.execute(text(change), {"id": round_id})
    before = coordinator.dump()

    def act_late(step: Callable[[Any, Any, AggregationPlan], None]) -> None:
        with database.write("worker") as tx:
            step(tx, found(rounds.by_id(tx, round_id)), plan)

    for step in (complete, drop_damaged, give_up):
        with pytest.raises(LostRace, match=r"is \w+ at epoch \d+, not \d+"):
            act_late(step)
        assert coordinator.dump() == before


def complete(tx: Any, round_: Any, plan: AggregationPlan) -> None:
    progress.complete(tx, round_, plan, progress.Aggregate(plan.base_digest, 1, None))


def drop_damaged(tx: Any, round_: Any, plan: AggregationPlan) -> None:
    progress.drop_damaged(tx, round_, plan, [plan.inputs[0].digest])


def give_up(tx: Any, round_: Any, plan: AggregationPlan) -> None:
    progress.give_up(tx, round_, plan, "for the test")


ONE_ONLY = {
    "live round of a federation": ("rounds", "status = 'collecting'", {"number": 99}),
    "round of a number": ("rounds", "status = 'published'", {}),
    "update of a site in a round": ("updates", "status = 'accepted'", {"origin_round_id": "another"}),
    "update of a site for the round that asked": ("updates", "status = 'accepted'", {"round_id": "another"}),
    "version of a round": ("model_versions", "status = 'serving'", {"status": "retired", "number": 99}),
    "serving version": ("model_versions", "status = 'serving'", {"number": 99, "round_id": None}),
    "version of a number": ("model_versions", "status = 'serving'", {"status": "retired", "round_id": None}),
    "input that an update is": ("round_inputs", "position = 0", {"position": 99}),
}


def test_where_there_may_be_one_only_the_database_refuses_another(coordinator: Coordinator) -> None:
    sites = training_round(coordinator)
    sites[0].train()
    insert_copy(coordinator, "rounds", "status = 'published'", {"id": "another", "number": 98})
    for table, where, changes in ONE_ONLY.values():
        with pytest.raises(IntegrityError, match=r"(?i)unique"):
            insert_copy(coordinator, table, where, changes)


def insert_copy(coordinator: Coordinator, table: str, where: str, changes: dict[str, Any]) -> None:
    """Insert a row like the first one of which `where` holds, under another id and with other changes."""
    rows = METADATA.tables[table]
    with coordinator.context.database.write("worker") as tx:
        query = select(rows).where(text(where)).limit(1)
        row = dict(found(tx.session.execute(query).mappings().first()))
        fresh = {"id": "fresh"} if "id" in row else {}
        tx.session.execute(insert(rows).values(**(row | fresh | changes)))


def round_to_aggregate(coordinator: Coordinator) -> str:
    """Return a round whose inputs are frozen and which nobody has begun to aggregate."""
    for site in training_round(coordinator):
        site.train()
    return close_round(coordinator)
