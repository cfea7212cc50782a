"""The catalog's tables. A change here needs a migration in `migrations/versions` and a new `HEAD`."""

from __future__ import annotations

import sqlalchemy as sa

HEAD = "0002"  # the newest migration; a test compares it with the folder

METADATA = sa.MetaData()

ACCOUNT = sa.Table(
    "account",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("email_verified", sa.Boolean, nullable=False),
    sa.Column("proxy_username", sa.Text, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("trial_until_s", sa.BigInteger),
    sa.Column("prepayment", sa.String(40), nullable=False),  # a decimal as text: SQLite has no decimal type
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_s", sa.BigInteger, nullable=False),
)

ZONE = sa.Table(
    "zone",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("account", sa.String(64), sa.ForeignKey("account.id"), nullable=False),
    sa.Column("name", sa.String(253), nullable=False),
    sa.Column("network", sa.String(16), nullable=False),
    sa.Column("product", sa.String(16), nullable=False),
    sa.Column("side", sa.String(16), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),
    sa.Column("created_s", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("account", "name", name="zone_account_name"),
    sqlite_autoincrement=True,  # the usage store keeps numbers for ever: none may be given out twice
)

IDENTITY = sa.Table(
    "identity",
    METADATA,
    sa.Column("identity", sa.String(512), primary_key=True),
    sa.Column("zone", sa.Integer, sa.ForeignKey("zone.number"), nullable=False, index=True),
)

KEY = sa.Table(
    "api_key",
    METADATA,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("account", sa.String(64), sa.ForeignKey("account.id"), index=True),  # NULL: an operator's key
    sa.Column("scope", sa.String(16), nullable=False),
    sa.Column("digest", sa.LargeBinary(32), nullable=False),
    sa.Column("expires_s", sa.BigInteger),
    sa.Column("revoked", sa.Boolean, nullable=False),
    sa.Column("created_s", sa.BigInteger, nullable=False),
    sa.Column("same_body_once", sa.Boolean, nullable=False, server_default=sa.false()),
)

PLAN = sa.Table(
    "plan",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("account", sa.String(64), sa.ForeignKey("account.id"), nullable=False, index=True),
    sa.Column("zone", sa.Integer, sa.ForeignKey("zone.number")),  # NULL: the account's own plan
    sa.Column("start_month", sa.String(7), nullable=False),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("fields", sa.Text, nullable=False),  # JSON
)
# A plain UNIQUE would let two account plans start in one month, since NULL differs from NULL.
sa.Index(
    "plan_start", PLAN.c.account, sa.func.coalesce(PLAN.c.zone, sa.literal_column("0")), PLAN.c.start_month, unique=True
)

# One row. SQLite tells by itself that another connection has written; other databases are asked for this counter.
CHANGE = sa.Table(
    "change",
    METADATA,
    sa.Column("number", sa.BigInteger, nullable=False),
)
