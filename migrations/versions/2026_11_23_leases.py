"""A round says which worker aggregates it, and until when that holds.

Revision ID: 2026_11_23_leases
Revises: 2026_11_23_late_updates
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_leases"
down_revision = "2026_11_23_late_updates"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rounds", sa.Column("lease_holder", sa.String(64), nullable=True))
    op.add_column("rounds", sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("rounds", "lease_expires_at")
    op.drop_column("rounds", "lease_holder")
