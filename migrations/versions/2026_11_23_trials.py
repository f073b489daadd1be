"""A version can be tried beside the one that serves.

Revision ID: 2026_11_23_trials
Revises: 2026_11_23_organisations
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_trials"
down_revision = "2026_11_23_organisations"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
STATUS = sa.Enum(
    "running", "stopped", "tripped", name="status", native_enum=False, create_constraint=True, length=16
)
COUNTS = ("num_tried", "num_errors", "num_answered", "num_compared", "num_flips", "num_skipped")
SUMS = ("sum_distance", "sum_trial_seconds", "sum_serving_seconds")
RUNNING = sa.text("status = 'running'")


def upgrade() -> None:
    op.create_table(
        "trials",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("federation_id", sa.String(64), nullable=False),
        sa.Column("version_id", sa.String(64), nullable=False),
        sa.Column("serving_version_id", sa.String(64), nullable=False),
        sa.Column("status", STATUS, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("terms", sa.JSON(none_as_null=True), nullable=False),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in COUNTS),
        *(sa.Column(name, sa.Double(), nullable=False) for name in SUMS),
        sa.Column("reason", sa.String(255), nullable=True),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_trials_federation_id_federations"),
        sa.ForeignKeyConstraint(["version_id"], ["model_versions.id"], name="fk_trials_version_id_model_versions"),
        sa.ForeignKeyConstraint(
            ["serving_version_id"], ["model_versions.id"], name="fk_trials_serving_version_id_model_versions"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_trials"),
    )
    op.create_index("ix_trials_federation_id", "trials", ["federation_id"])
    op.create_index(
        "uq_trials_running",
        "trials",
        ["federation_id"],
        unique=True,
        sqlite_where=RUNNING,
        postgresql_where=RUNNING,
    )


def downgrade() -> None:
    op.drop_table("trials")
