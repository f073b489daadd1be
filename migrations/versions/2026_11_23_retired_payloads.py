"""The file of an update may be given up once its round is long over.

Revision ID: 2026_11_23_retired_payloads
Revises: 2026_11_23_trials
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_retired_payloads"
down_revision = "2026_11_23_trials"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("updates", sa.Column("payload_retired_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("updates", "payload_retired_at")
