"""API keys for programs and people that are no sites.

Revision ID: 2026_11_23_api_keys
Revises: 2026_11_23_version_manifests
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_api_keys"
down_revision = "2026_11_23_version_manifests"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ROLE = sa.Enum(
    "federation_lead", "auditor", "predictor", name="role", native_enum=False, create_constraint=True, length=16
)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("federation_id", sa.String(64), nullable=False),
        sa.Column("organisation", sa.String(63), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("role", ROLE, nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_api_keys_federation_id_federations"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_federation_id", "api_keys", ["federation_id"])


def downgrade() -> None:
    op.drop_table("api_keys")
