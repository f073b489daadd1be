"""Model versions carry the coordinator's signed word for what they are and how they came about.

Revision ID: 2026_11_23_version_manifests
Revises: 2026_11_23_calibrations
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_version_manifests"
down_revision = "2026_11_23_calibrations"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("model_versions", sa.Column("manifest", sa.JSON(), nullable=True))


def downgrade() -> None:
    op.drop_column("model_versions", "manifest")
