"""The updates of a round are counted by status from an index alone.

Revision ID: 2026_11_23_update_counts
Revises: 2026_11_23_retired_payloads
"""

from alembic import op

revision = "2026_11_23_update_counts"
down_revision = "2026_11_23_retired_payloads"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_updates_round_id_status", "updates", ["round_id", "status"])
    op.drop_index("ix_updates_round_id", "updates")


def downgrade() -> None:
    op.create_index("ix_updates_round_id", "updates", ["round_id"])
    op.drop_index("ix_updates_round_id_status", "updates")
