"""Keys that take a repeated identical body as the same batch."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("api_key", recreate="auto") as table:
        table.add_column(sa.Column("same_body_once", sa.Boolean, nullable=False, server_default=sa.false()))
