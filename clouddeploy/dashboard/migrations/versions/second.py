"""The second form: second factors, when somebody last proved who they are, and tries that a restart does not forget."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "second"
down_revision = "first"


def upgrade() -> None:
    """Adds what is new; what is there stays as it is."""
    with op.batch_alter_table("project") as project:
        project.add_column(
            sa.Column("needs_second_factor", sa.Boolean(), nullable=False, server_default=sa.false()),
        )
    with op.batch_alter_table("login") as login:
        login.add_column(sa.Column("proved_at", sa.DateTime(), nullable=True))
    op.create_table(
        "second_factor",
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("secret", sa.String(length=200), nullable=False),
        sa.Column("last_step", sa.Integer(), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id"),
    )
    op.create_table(
        "recovery_code",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("user_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(op.f("ix_recovery_code_user_id"), "recovery_code", ["user_id"], unique=False)
    op.create_table(
        "attempt",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last", sa.Double(), nullable=False),
        sa.Column("locked_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )


def downgrade() -> None:
    """Removes it again."""
    for table in ("attempt", "recovery_code", "second_factor"):
        op.drop_table(table)
    with op.batch_alter_table("login") as login:
        login.drop_column("proved_at")
    with op.batch_alter_table("project") as project:
        project.drop_column("needs_second_factor")
