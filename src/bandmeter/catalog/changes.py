"""Single changes to the catalog. Each function works inside the transaction of the connection it is given."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from bandmeter.catalog import documents, plans
from bandmeter.catalog.tables import ACCOUNT, IDENTITY, KEY, PLAN, ZONE
from bandmeter.domain import errors, tenancy, usage
from bandmeter.domain.errors import BandmeterError

KEYS_PER_ACCOUNT_MAX = 10_000  # that are not revoked; a seller's customers have a handful each
IDENTITY_TAKEN = "belongs to another zone already, and can have one only: `bandmeter zone release` takes it from there."


def need_account(connection: sa.Connection, account: str) -> None:
    """Raise `account_unknown` when there is none of that id."""
    if connection.execute(sa.select(ACCOUNT.c.id).where(ACCOUNT.c.id == account)).first() is None:
        raise BandmeterError(
            errors.ACCOUNT_UNKNOWN,
            f"There is no account {account[:80]!r}: see `bandmeter account list`, or add it with `account add`.",
        )


def need_zone(connection: sa.Connection, account: str, name: str) -> int:
    """The number of a zone; raises `account_unknown` or `zone_unknown`."""
    need_account(connection, account)
    found = connection.execute(sa.select(ZONE.c.number).where(ZONE.c.account == account, ZONE.c.name == name)).scalar()
    if found is None:
        raise BandmeterError(
            errors.ZONE_UNKNOWN,
            f"Account {account} has no zone {name[:80]!r}: see `bandmeter zone list {account}`.",
        )
    return int(found)


def add_account(connection: sa.Connection, account: tenancy.Account) -> None:
    """Add an account; raises `input_invalid`, or `conflict` when the id is taken."""
    tenancy.check_account_id(account.id)
    values = dataclasses.asdict(account)
    documents.check_values(values, documents.ACCOUNT_FIELDS)
    if connection.execute(sa.select(ACCOUNT.c.id).where(ACCOUNT.c.id == account.id)).first():
        raise BandmeterError(
            errors.CONFLICT,
            f"Account {account.id} exists already: choose another id, or change it with `bandmeter apply`.",
        )
    connection.execute(ACCOUNT.insert(), values)


def set_account_status(connection: sa.Connection, account: str, status: tenancy.AccountStatus) -> None:
    """Suspend or resume an account; raises `account_unknown`."""
    need_account(connection, account)
    connection.execute(ACCOUNT.update().where(ACCOUNT.c.id == account).values(status=str(status)))


def add_zone(connection: sa.Connection, zone: tenancy.Zone) -> tenancy.Zone:
    """Add a zone (its number is chosen here); raises `account_unknown`, `input_invalid`, `conflict`."""
    tenancy.check_zone_name(zone.name)
    values: dict[str, Any] = {
        "network": zone.network,
        "product": zone.product,
        "side": zone.side,
        "status": zone.status,
    }
    values = documents.check_values(values, documents.ZONE_FIELDS)
    need_account(connection, zone.account)
    if connection.execute(
        sa.select(ZONE.c.number).where(ZONE.c.account == zone.account, ZONE.c.name == zone.name)
    ).first():
        raise BandmeterError(
            errors.CONFLICT,
            f"Account {zone.account} has a zone {zone.name} already: choose another name, or change it with"
            " `bandmeter apply` (a deleted one comes back with `bandmeter zone resume`).",
        )
    values |= {"account": zone.account, "name": zone.name, "created_s": zone.created_s}
    inserted = connection.execute(ZONE.insert(), values).inserted_primary_key
    number = int(inserted[0]) if inserted else 0
    for identity in dict.fromkeys(zone.identities):
        _insert_identity(connection, number, identity)
    return dataclasses.replace(zone, number=number, identities=tuple(sorted(set(zone.identities))))


def set_zone_status(connection: sa.Connection, account: str, name: str, status: tenancy.ZoneStatus) -> None:
    """Suspend, resume or delete a zone; its history stays. Raises `account_unknown`, `zone_unknown`."""
    number = need_zone(connection, account, name)
    connection.execute(ZONE.update().where(ZONE.c.number == number).values(status=str(status)))


def add_identity(connection: sa.Connection, account: str, name: str, identity: str) -> None:
    """Give an identity to a zone; nothing happens when it has it. Raises `conflict` when another zone has it."""
    _insert_identity(connection, need_zone(connection, account, name), identity)


def remove_identity(connection: sa.Connection, account: str, name: str, identity: str) -> None:
    """Take an identity from a zone; raises `account_unknown`, `zone_unknown`, `input_invalid` when it has another."""
    mine = IDENTITY.c.zone == need_zone(connection, account, name)
    if not connection.execute(IDENTITY.delete().where(mine, IDENTITY.c.identity == identity)).rowcount:
        sentence = f"{account}/{name} has no identity {identity[:80]!r}: see `bandmeter zone list {account}`."
        raise BandmeterError(errors.INPUT_INVALID, sentence)


def _insert_identity(connection: sa.Connection, number: int, identity: str) -> None:
    documents.check_identity(identity, "identity")
    owner = connection.execute(sa.select(IDENTITY.c.zone).where(IDENTITY.c.identity == identity)).scalar()
    if owner == number:
        return
    if owner is not None:
        raise BandmeterError(errors.CONFLICT, f"The identity {identity[:80]!r} {IDENTITY_TAKEN}")
    connection.execute(IDENTITY.insert(), {"identity": identity, "zone": number})


def add_key(connection: sa.Connection, key: tenancy.Key, digest: bytes) -> None:
    """Store a key's digest; raises `account_unknown`, or `conflict` when the account has too many."""
    mine = KEY.c.account.is_(None) if key.account is None else KEY.c.account == key.account
    if key.account is not None:
        need_account(connection, key.account)
    count = connection.execute(sa.select(sa.func.count()).where(mine, KEY.c.revoked.is_(False))).scalar_one()
    if count >= KEYS_PER_ACCOUNT_MAX:
        raise BandmeterError(
            errors.CONFLICT,
            f"There are {count} keys here already, the most there can be: revoke some with `bandmeter key revoke`.",
        )
    connection.execute(KEY.insert(), dataclasses.asdict(key) | {"digest": digest})


def revoke_key(connection: sa.Connection, key: str) -> None:
    """Revoke a key by its id, for good; raises `input_invalid` when there is none of that id."""
    if connection.execute(KEY.update().where(KEY.c.id == key).values(revoked=True)).rowcount == 0:
        raise BandmeterError(
            errors.INPUT_INVALID, "There is no key of that id: take it from `bandmeter key list`, without the secret."
        )


def set_plan(connection: sa.Connection, account: str, zone: str | None, new: plans.Plan, current: str) -> str:
    """Put a plan in force from `new.start` ("" to let the rule choose); the month it starts with, "" for no change.

    Raises `account_unknown`, `zone_unknown`, `input_invalid`, and `conflict` when it would change a past month.
    """
    need_account(connection, account)
    number = None if zone is None else need_zone(connection, account, zone)
    fields = documents.dump_fields(new.fields)
    stored = read_plans(connection, account)
    own, above = stored.get(number, []), stored.get(None, []) if number is not None else []
    new = documents.stored_plan(new.start, new.kind, fields)
    start = plans.choose_start(own, above, new, new.start or None, current)
    if start:
        write_plan(connection, account, number, plans.Plan(start, new.kind, new.fields))
    return start


def read_plans(connection: sa.Connection, account: str) -> dict[int | None, list[plans.Plan]]:
    """An account's plans by zone number, its own under None, each in order of start."""
    found: dict[int | None, list[plans.Plan]] = {}
    query = sa.select(PLAN).where(PLAN.c.account == account).order_by(PLAN.c.start_month)
    for row in connection.execute(query):
        found.setdefault(row.zone, []).append(documents.stored_plan(row.start_month, row.kind, row.fields))
    return found


def write_plan(connection: sa.Connection, account: str, zone: int | None, plan: plans.Plan) -> None:
    """Store a plan in place of the one that starts in the same month, if any."""
    mine = PLAN.c.zone.is_(None) if zone is None else PLAN.c.zone == zone
    connection.execute(PLAN.delete().where(PLAN.c.account == account, mine, PLAN.c.start_month == plan.start))
    values = {"account": account, "zone": zone, "start_month": plan.start, "kind": plan.kind}
    connection.execute(PLAN.insert(), values | {"fields": documents.dump_fields(plan.fields)})


def default_zone(values: dict[str, Any]) -> dict[str, Any]:
    """A new zone's columns: what was given over the defaults, with the side that its network bills."""
    network = values.get("network", "dc")
    return {
        "network": network,
        "product": "",
        "side": str(tenancy.default_side(network)),
        "status": str(tenancy.ZoneStatus.ACTIVE),
    } | values


def as_zone(row: Any, identities: tuple[str, ...]) -> tenancy.Zone:
    """A zone from its row."""
    side, status = usage.Side(row.side), tenancy.ZoneStatus(row.status)
    return tenancy.Zone(
        row.number, row.account, row.name, row.network, row.product, side, status, identities, row.created_s
    )


def as_account(row: Any) -> tenancy.Account:
    """An account from its row."""
    return tenancy.Account(**(row._asdict() | {"status": tenancy.AccountStatus(row.status)}))


def as_key(row: Any) -> tenancy.Key:
    """A key from its row, without the digest."""
    return tenancy.Key(
        row.id,
        row.account,
        tenancy.Scope(row.scope),
        row.expires_s,
        row.revoked,
        row.created_s,
        row.same_body_once,
    )
