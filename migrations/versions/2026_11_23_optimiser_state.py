"""A version names the file of what its server optimiser remembers.

Revision ID: 2026_11_23_optimiser_state
Revises: 2026_11_22_events_append_only
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_optimiser_state"
down_revision = "2026_11_22_events_append_only"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("model_versions", sa.Column("optimiser_state_digest", sa.String(71), nullable=True))


def downgrade() -> None:
    op.drop_column("model_versions", "optimiser_state_digest")
