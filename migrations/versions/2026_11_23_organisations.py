"""Organisations are known by themselves, with the federations that they take part in; they have admins of their own.

Revision ID: 2026_11_23_organisations
Revises: 2026_11_23_api_keys
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_23_organisations"
down_revision = "2026_11_23_api_keys"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
OLD_ROLES, NEW_ROLES = ("federation_lead", "auditor", "predictor"), ("federation_lead", "org_admin", "auditor", "predictor")
MENTIONED = (
    "SELECT federation_id, organisation, enrolled_at AS moment FROM sites"
    " UNION ALL SELECT federation_id, organisation, created_at FROM enrolment_tokens"
    " UNION ALL SELECT federation_id, organisation, created_at FROM api_keys"
)


def upgrade() -> None:
    op.create_table(
        "organisations",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_organisations"),
    )
    op.create_table(
        "memberships",
        sa.Column("federation_id", sa.String(64), nullable=False),
        sa.Column("organisation", sa.String(63), nullable=False),
        sa.Column("joined_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["federation_id"], ["federations.id"], name="fk_memberships_federation_id_federations"),
        sa.ForeignKeyConstraint(
            ["organisation"], ["organisations.name"], name="fk_memberships_organisation_organisations"
        ),
        sa.PrimaryKeyConstraint("federation_id", "organisation", name="pk_memberships"),
    )
    op.create_index("ix_memberships_organisation", "memberships", ["organisation"])
    op.execute(
        "INSERT INTO organisations (name, created_at)"
        f" SELECT organisation, min(moment) FROM ({MENTIONED}) AS mentioned GROUP BY organisation"
    )
    op.execute(
        "INSERT INTO memberships (federation_id, organisation, joined_at)"
        f" SELECT federation_id, organisation, min(moment) FROM ({MENTIONED}) AS mentioned"
        " GROUP BY federation_id, organisation"
    )
    allow(OLD_ROLES, NEW_ROLES)


def downgrade() -> None:
    # An organisation's admin has no counterpart in the older release, so nobody can come in as one any more.
    op.execute("DELETE FROM api_keys WHERE role = 'org_admin'")
    allow(NEW_ROLES, OLD_ROLES)
    op.drop_table("memberships")
    op.drop_table("organisations")


def allow(before: tuple[str, ...], after: tuple[str, ...]) -> None:
    with op.batch_alter_table("api_keys") as table:
        table.alter_column("role", existing_type=one_of(before), type_=one_of(after), existing_nullable=False)


def one_of(roles: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*roles, name="role", native_enum=False, create_constraint=True, length=16)
