"""The first schema: accounts, zones, identities, keys, price plans.

Spelled out rather than taken from `tables.py`, which moves on while this stays.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("email_verified", sa.Boolean, nullable=False),
        sa.Column("proxy_username", sa.Text, nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("trial_until_s", sa.BigInteger),
        sa.Column("prepayment", sa.String(40), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_s", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "zone",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("account", sa.String(64), sa.ForeignKey("account.id"), nullable=False),
        sa.Column("name", sa.String(253), nullable=False),
        sa.Column("network", sa.String(16), nullable=False),
        sa.Column("product", sa.String(16), nullable=False),
        sa.Column("side", sa.String(16), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("created_s", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("account", "name", name="zone_account_name"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "identity",
        sa.Column("identity", sa.String(512), primary_key=True),
        sa.Column("zone", sa.Integer, sa.ForeignKey("zone.number"), nullable=False, index=True),
    )
    op.create_table(
        "api_key",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("account", sa.String(64), sa.ForeignKey("account.id"), index=True),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("expires_s", sa.BigInteger),
        sa.Column("revoked", sa.Boolean, nullable=False),
        sa.Column("created_s", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "plan",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("account", sa.String(64), sa.ForeignKey("account.id"), nullable=False, index=True),
        sa.Column("zone", sa.Integer, sa.ForeignKey("zone.number")),
        sa.Column("start_month", sa.String(7), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("fields", sa.Text, nullable=False),
    )
    op.create_index("plan_start", "plan", ["account", sa.text("coalesce(zone, 0)"), "start_month"], unique=True)
    change = op.create_table("change", sa.Column("number", sa.BigInteger, nullable=False))
    op.bulk_insert(change, [{"number": 0}])
