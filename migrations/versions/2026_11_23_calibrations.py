"""Sites tell of a version's scores on held-out images, and the version is calibrated from them.

Revision ID: 2026_11_23_calibrations
Revises: 2026_11_23_site_keys
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_calibrations"
down_revision = "2026_11_23_site_keys"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "calibration_sketches",
        sa.Column("version_id", sa.String(64), nullable=False),
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"],
            ["model_versions.id"],
            name=op.f("fk_calibration_sketches_version_id_model_versions"),
        ),
        sa.ForeignKeyConstraint(
            ["site_id"], ["sites.id"], name=op.f("fk_calibration_sketches_site_id_sites")
        ),
        sa.PrimaryKeyConstraint("version_id", "site_id", name=op.f("pk_calibration_sketches")),
    )
    op.create_table(
        "calibrations",
        sa.Column("version_id", sa.String(64), nullable=False),
        sa.Column("num_sketches", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("pooled_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_calibrations_version_id_model_versions")
        ),
        sa.PrimaryKeyConstraint("version_id", "num_sketches", name=op.f("pk_calibrations")),
    )


def downgrade() -> None:
    op.drop_table("calibrations")
    op.drop_table("calibration_sketches")
