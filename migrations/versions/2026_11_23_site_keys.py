"""Sites prove who they are with keys of their own, and what is agreed and submitted is signed.

The secrets of the sites that are enrolled are forgotten, so these sites must enrol again under another name: a key
that they never had cannot be made for them.

Revision ID: 2026_11_23_site_keys
Revises: 2026_11_23_leases
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_site_keys"
down_revision = "2026_11_23_leases"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "site_keys",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("site_id", sa.String(64), nullable=False),
        sa.Column("public_key", sa.String(43), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("retired_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["sites.id"], name="fk_site_keys_site_id_sites"),
        sa.PrimaryKeyConstraint("id", name="pk_site_keys"),
    )
    op.create_index("ix_site_keys_site_id", "site_keys", ["site_id"])
    op.create_table(
        "used_assertions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_used_assertions"),
    )
    op.create_index("ix_used_assertions_expires_at", "used_assertions", ["expires_at"])
    op.drop_column("sites", "secret_sha256")
    op.add_column("federations", sa.Column("terms", sa.JSON(), nullable=True))
    op.add_column("updates", sa.Column("statement", sa.JSON(), nullable=True))
    op.create_index("ix_events_subject", "events", ["subject"])


def downgrade() -> None:
    op.drop_index("ix_events_subject", "events")
    op.drop_column("updates", "statement")
    op.drop_column("federations", "terms")
    # No secret hashes to an empty string, so the sites that are there can do nothing until they enrol again.
    op.add_column(
        "sites", sa.Column("secret_sha256", sa.String(64), nullable=False, server_default=sa.text("''"))
    )
    op.drop_table("used_assertions")
    op.drop_table("site_keys")
