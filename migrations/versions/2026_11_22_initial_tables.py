"""The first tables.

Revision ID: 2026_11_22_initial_tables
Revises: nothing
"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_22_initial_tables"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(64)
NAME = sa.String(63)
DIGEST = sa.String(71)
TIME = sa.DateTime(timezone=True)


def one_of(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def references(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=f"fk_{table}_{column}_{target}")


def where(condition: str) -> dict[str, object]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    create_federations_and_sites()
    create_rounds_and_versions()
    create_updates()
    create_events()


def create_federations_and_sites() -> None:
    op.create_table(
        "federations",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("status", one_of("status", "draft", "active", "paused", "archived"), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("specification", sa.JSON(), nullable=False),
        sa.Column("specification_digest", DIGEST, nullable=False),
        sa.Column("tensor_schema", sa.JSON(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_federations"),
        sa.UniqueConstraint("name", name="uq_federations_name"),
    )
    op.create_table(
        "sites",
        sa.Column("id", ID, nullable=False),
        sa.Column("federation_id", ID, nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("organisation", NAME, nullable=False),
        sa.Column("status", one_of("status", "pending", "active", "suspended", "revoked"), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("enrolled_at", TIME, nullable=False),
        sa.Column("last_seen_at", TIME, nullable=True),
        references("sites", "federation_id", "federations"),
        sa.PrimaryKeyConstraint("id", name="pk_sites"),
        sa.UniqueConstraint("federation_id", "name", name="uq_sites_federation_id_name"),
    )
    op.create_table(
        "enrolment_tokens",
        sa.Column("id", ID, nullable=False),
        sa.Column("federation_id", ID, nullable=False),
        sa.Column("organisation", NAME, nullable=False),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.Column("used_at", TIME, nullable=True),
        sa.Column("used_by_site_id", ID, nullable=True),
        references("enrolment_tokens", "federation_id", "federations"),
        references("enrolment_tokens", "used_by_site_id", "sites"),
        sa.PrimaryKeyConstraint("id", name="pk_enrolment_tokens"),
        sa.UniqueConstraint("token_sha256", name="uq_enrolment_tokens_token_sha256"),
    )


def create_rounds_and_versions() -> None:
    # A round names the version it starts from, a version the round it comes from. SQLite takes a reference to a table
    # that is yet to come and cannot add one later; PostgreSQL is the other way round.
    base_version = references("rounds", "base_version_id", "model_versions")
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.create_table(
        "rounds",
        sa.Column("id", ID, nullable=False),
        sa.Column("federation_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("task", one_of("task", "statistics", "training"), nullable=False),
        sa.Column(
            "status",
            one_of(
                "status",
                "pending",
                "collecting",
                "aggregating",
                "evaluating",
                "published",
                "held",
                "abandoned",
            ),
            nullable=False,
        ),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("base_version_id", ID, nullable=False),
        sa.Column("quorum", sa.Integer(), nullable=False),
        sa.Column("target_updates", sa.Integer(), nullable=False),
        sa.Column("started_at", TIME, nullable=False),
        sa.Column("deadline_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("abandoned_reason", sa.String(200), nullable=True),
        references("rounds", "federation_id", "federations"),
        *([base_version] if is_sqlite else []),
        sa.PrimaryKeyConstraint("id", name="pk_rounds"),
        sa.UniqueConstraint("federation_id", "number", name="uq_rounds_federation_id_number"),
    )
    op.create_index(
        "uq_rounds_live",
        "rounds",
        ["federation_id"],
        unique=True,
        **where("status NOT IN ('published', 'held', 'abandoned')"),
    )
    op.create_table(
        "model_versions",
        sa.Column("id", ID, nullable=False),
        sa.Column("federation_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", one_of("status", "candidate", "serving", "retired", "held"), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("parent_id", ID, nullable=True),
        sa.Column("round_id", ID, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        references("model_versions", "federation_id", "federations"),
        references("model_versions", "parent_id", "model_versions"),
        references("model_versions", "round_id", "rounds"),
        sa.PrimaryKeyConstraint("id", name="pk_model_versions"),
        sa.UniqueConstraint("federation_id", "number", name="uq_model_versions_federation_id_number"),
        sa.UniqueConstraint("round_id", name="uq_model_versions_round_id"),
    )
    op.create_index(
        "uq_model_versions_serving",
        "model_versions",
        ["federation_id"],
        unique=True,
        **where("status = 'serving'"),
    )
    if not is_sqlite:
        op.create_foreign_key(base_version.name, "rounds", "model_versions", ["base_version_id"], ["id"])
    op.create_table(
        "round_sites",
        sa.Column("round_id", ID, nullable=False),
        sa.Column("site_id", ID, nullable=False),
        references("round_sites", "round_id", "rounds"),
        references("round_sites", "site_id", "sites"),
        sa.PrimaryKeyConstraint("round_id", "site_id", name="pk_round_sites"),
    )
    op.create_table(
        "evaluations",
        sa.Column("version_id", ID, nullable=False),
        sa.Column("site_id", ID, nullable=False),
        sa.Column("num_examples", sa.Integer(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("reported_at", TIME, nullable=False),
        references("evaluations", "version_id", "model_versions"),
        references("evaluations", "site_id", "sites"),
        sa.PrimaryKeyConstraint("version_id", "site_id", name="pk_evaluations"),
    )


def create_updates() -> None:
    op.create_table(
        "updates",
        sa.Column("id", ID, nullable=False),
        sa.Column("round_id", ID, nullable=False),
        sa.Column("site_id", ID, nullable=False),
        sa.Column(
            "status",
            one_of("status", "received", "accepted", "aggregated", "quarantined", "discarded"),
            nullable=False,
        ),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=True),
        sa.Column("tensors", sa.JSON(), nullable=True),
        sa.Column("num_examples", sa.Integer(), nullable=True),
        sa.Column("delta_norm", sa.Double(), nullable=True),
        sa.Column("verdict", sa.Text(), nullable=True),
        sa.Column("received_at", TIME, nullable=False),
        references("updates", "round_id", "rounds"),
        references("updates", "site_id", "sites"),
        sa.PrimaryKeyConstraint("id", name="pk_updates"),
    )
    op.create_index("ix_updates_round_id", "updates", ["round_id"])
    op.create_index(
        "uq_updates_round_site",
        "updates",
        ["round_id", "site_id"],
        unique=True,
        **where("status <> 'quarantined'"),
    )
    op.create_table(
        "round_inputs",
        sa.Column("round_id", ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("update_id", ID, nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        references("round_inputs", "round_id", "rounds"),
        references("round_inputs", "update_id", "updates"),
        sa.PrimaryKeyConstraint("round_id", "position", name="pk_round_inputs"),
        sa.UniqueConstraint("update_id", name="uq_round_inputs_update_id"),
    )


def create_events() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("federation_id", ID, nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("occurred_at", TIME, nullable=False),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        references("events", "federation_id", "federations"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_federation_id", "events", ["federation_id"])


def downgrade() -> None:
    for table in ("events", "round_inputs", "updates", "evaluations", "round_sites"):
        op.drop_table(table)
    if op.get_bind().dialect.name != "sqlite":
        op.drop_constraint("fk_rounds_base_version_id_model_versions", "rounds", type_="foreignkey")
    for table in ("model_versions", "rounds", "enrolment_tokens", "sites", "federations"):
        op.drop_table(table)
