"""Events are append-only: the database itself refuses to change or to delete one.

Revision ID: 2026_11_22_events_append_only
Revises: 2026_11_22_initial_tables
"""

from alembic import op

revision = "2026_11_22_events_append_only"
down_revision = "2026_11_22_initial_tables"
branch_labels = None
depends_on = None

MESSAGE = "events are append-only"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER events_refuse_{change.lower()} BEFORE {change} ON events "
                f"BEGIN SELECT RAISE(ABORT, '{MESSAGE}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION events_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{MESSAGE}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER events_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON events "
        "FOR EACH STATEMENT EXECUTE FUNCTION events_refuse_change()"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("update", "delete"):
            op.execute(f"DROP TRIGGER events_refuse_{change}")
        return
    op.execute("DROP TRIGGER events_refuse_change ON events")
    op.execute("DROP FUNCTION events_refuse_change()")
