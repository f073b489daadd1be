"""An update may count in a later round than the one that asked for it.

Revision ID: 2026_11_23_late_updates
Revises: 2026_11_23_optimiser_state
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_late_updates"
down_revision = "2026_11_23_optimiser_state"
branch_labels = None
depends_on = None

FOREIGN_KEY = "fk_updates_origin_round_id_rounds"
CONDITION = sa.text("status <> 'quarantined'")


def upgrade() -> None:
    op.add_column("updates", sa.Column("origin_round_id", sa.String(64), nullable=True))
    op.add_column("updates", sa.Column("staleness", sa.Integer(), nullable=True))
    op.execute("UPDATE updates SET origin_round_id = round_id, staleness = 0")
    with op.batch_alter_table("updates") as table:
        table.alter_column("origin_round_id", existing_type=sa.String(64), nullable=False)
        table.alter_column("staleness", existing_type=sa.Integer(), nullable=False)
        table.create_foreign_key(FOREIGN_KEY, "rounds", ["origin_round_id"], ["id"])
    op.create_index(
        "uq_updates_origin_round_site",
        "updates",
        ["origin_round_id", "site_id"],
        unique=True,
        sqlite_where=CONDITION,
        postgresql_where=CONDITION,
    )
    op.create_index("ix_updates_digest", "updates", ["digest"])


def downgrade() -> None:
    op.drop_index("ix_updates_digest", "updates")
    op.drop_index("uq_updates_origin_round_site", "updates")
    with op.batch_alter_table("updates") as table:
        table.drop_constraint(FOREIGN_KEY, type_="foreignkey")
        table.drop_column("staleness")
        table.drop_column("origin_round_id")
