"""The third form: from where people have logged in before, so that strangers cannot lock them out there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "third"
down_revision = "second"


def upgrade() -> None:
    """Adds what is new; what is there stays as it is."""
    op.create_table(
        "known_place",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("last", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )


def downgrade() -> None:
    """Removes it again."""
    op.drop_table("known_place")
