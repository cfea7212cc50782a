"""A whole catalog at once: what a document says becomes so, what it does not say stays, nothing is removed.

Applying a document twice changes nothing the second time. The work is a fixed number of statements for each 500
accounts, zones or identities, whatever the document holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from bandmeter.catalog import changes, documents, plans
from bandmeter.catalog.documents import AccountEntry, ZoneEntry
from bandmeter.catalog.tables import ACCOUNT, IDENTITY, PLAN, ZONE
from bandmeter.domain import errors, grid, tenancy

CHUNK = 500  # values in one IN (…); SQLite takes 32,766, PostgreSQL 65,535, both plan short ones fast
NAMED_MAX = 5  # identities named in one sentence


@dataclasses.dataclass
class _Stored:
    """What the catalog holds of the accounts in the document."""

    accounts: dict[str, Any]
    zones: dict[tuple[str, str], Any]
    owners: dict[str, int]  # identity → zone number
    plans: dict[tuple[str, int | None], list[plans.Plan]]


def apply(connection: sa.Connection, entries: Sequence[AccountEntry], now_s: int) -> list[str]:
    """Make it so, and tell what changed, a sentence each. Raises `conflict`; the caller then rolls back."""
    stored = _read(connection, entries)
    told = [*_accounts(connection, entries, stored, now_s), *_zones(connection, entries, stored, now_s)]
    _read_zones(connection, entries, stored)  # the new ones have their numbers now
    pairs = [(entry.id, zone) for entry in entries for zone in entry.zones]
    told += _identities(connection, pairs, stored)
    told += _plans(connection, pairs, stored, grid.month_name(now_s))
    return told


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(values), CHUNK):
        yield values[at : at + CHUNK]


def _read(connection: sa.Connection, entries: Sequence[AccountEntry]) -> _Stored:
    stored = _Stored({}, {}, {}, {})
    for ids in _chunks([entry.id for entry in entries]):
        stored.accounts |= {row.id: row for row in connection.execute(sa.select(ACCOUNT).where(ACCOUNT.c.id.in_(ids)))}
        for row in connection.execute(sa.select(PLAN).where(PLAN.c.account.in_(ids))):
            plan = documents.stored_plan(row.start_month, row.kind, row.fields)
            stored.plans.setdefault((row.account, row.zone), []).append(plan)
    for names in _chunks([i for entry in entries for zone in entry.zones for i in zone.identities]):
        query = sa.select(IDENTITY).where(IDENTITY.c.identity.in_(names))
        stored.owners |= {row.identity: row.zone for row in connection.execute(query)}
    _read_zones(connection, entries, stored)
    return stored


def _read_zones(connection: sa.Connection, entries: Sequence[AccountEntry], stored: _Stored) -> None:
    for ids in _chunks([entry.id for entry in entries]):
        query = sa.select(ZONE).where(ZONE.c.account.in_(ids))
        stored.zones |= {(row.account, row.name): row for row in connection.execute(query)}


def _accounts(connection: sa.Connection, entries: Sequence[AccountEntry], stored: _Stored, now_s: int) -> Iterator[str]:
    new, changed = [], []
    for entry in entries:
        row = stored.accounts.get(entry.id)
        if row is None:
            new.append(dataclasses.asdict(tenancy.Account(entry.id, created_s=now_s)) | entry.values)
            yield f"account {entry.id}: added"
        elif differing := _differing(row, entry.values):
            _keep_currency(row, entry)
            changed.append(_bound(row, "id", entry.values))
            yield f"account {entry.id}: {differing}"
    if new:
        connection.execute(ACCOUNT.insert(), new)
    _update(connection, ACCOUNT, "id", changed)


def _keep_currency(row: Any, entry: AccountEntry) -> None:
    """Raise `conflict` for another currency: the amounts of past months would become amounts of something else."""
    wanted = entry.values.get("currency", row.currency)
    if wanted != row.currency:
        sentence = (
            f"{entry.path}.currency: the currency of an account never changes, since past months would change their"
            f" meaning; it is {row.currency}. Leave it, or add another account for {wanted}."
        )
        raise errors.BandmeterError(errors.CONFLICT, sentence)


def _zones(connection: sa.Connection, entries: Sequence[AccountEntry], stored: _Stored, now_s: int) -> Iterator[str]:
    new, changed = [], []
    for entry in entries:
        for zone in entry.zones:
            row = stored.zones.get((entry.id, zone.name))
            if row is None:
                values = changes.default_zone(zone.values)
                new.append(values | {"account": entry.id, "name": zone.name, "created_s": now_s})
                yield f"zone {entry.id}/{zone.name}: added ({values['network']}, {values['side']} side)"
            elif differing := _differing(row, zone.values):
                changed.append(_bound(row, "number", zone.values))
                yield f"zone {entry.id}/{zone.name}: {differing}"
                if zone.values.get("side", row.side) != row.side:
                    yield f"zone {entry.id}/{zone.name}: its past months are answered and billed by that side too"
    if new:
        connection.execute(ZONE.insert(), new)
    _update(connection, ZONE, "number", changed)


def _differing(row: Any, values: dict[str, Any]) -> str:
    before = row._mapping  # noqa: SLF001 - SQLAlchemy's public name for it
    return ", ".join(f"{n} {before[n]!r} → {value!r}" for n, value in values.items() if before[n] != value)


def _bound(row: Any, key: str, values: dict[str, Any]) -> dict[str, Any]:
    whole = row._asdict() | values
    return {f"new_{name}": value for name, value in whole.items()} | {"the_key": whole[key]}


def _update(connection: sa.Connection, table: sa.Table, key: str, changed: list[dict[str, Any]]) -> None:
    if not changed:
        return
    columns: dict[str, Any] = {
        column.name: sa.bindparam(f"new_{column.name}") for column in table.c if column.name != key
    }
    connection.execute(
        table.update().where(table.c[key] == sa.bindparam("the_key")).values(columns),
        [{name: value for name, value in one.items() if name != f"new_{key}"} for one in changed],
    )


def _identities(connection: sa.Connection, pairs: Sequence[tuple[str, ZoneEntry]], stored: _Stored) -> Iterator[str]:
    new = []
    for account, zone in pairs:
        number = stored.zones[account, zone.name].number
        taken = [i for i in zone.identities if stored.owners.get(i, number) != number]
        if taken:
            sentence = f"{zone.path}.identities: the identity {taken[0][:80]!r} {changes.IDENTITY_TAKEN}"
            raise errors.BandmeterError(errors.CONFLICT, sentence)
        added = [i for i in zone.identities if i not in stored.owners]
        new += [{"identity": i, "zone": number} for i in added]
        if added:
            more = f" and {len(added) - NAMED_MAX} more" if len(added) > NAMED_MAX else ""
            yield f"zone {account}/{zone.name}: identities added: {', '.join(added[:NAMED_MAX])}{more}"
    if new:
        connection.execute(IDENTITY.insert(), new)


def _plans(
    connection: sa.Connection, pairs: Sequence[tuple[str, ZoneEntry]], stored: _Stored, current: str
) -> Iterator[str]:
    new = []
    for account, zone in pairs:
        if zone.plan is None:
            continue
        number = stored.zones[account, zone.name].number
        own, above = stored.plans.get((account, number), []), stored.plans.get((account, None), [])
        plan = plans.Plan("", *zone.plan)
        start = plans.choose_start(own, above, plan, None, current)
        if not start:
            continue
        if any(p.start == start for p in own):
            changes.write_plan(connection, account, number, plan._replace(start=start))
        else:
            fields = documents.dump_fields(plan.fields)
            row = {"account": account, "zone": number, "start_month": start, "kind": plan.kind, "fields": fields}
            new.append(row)
        since = "from the beginning" if start == plans.BEGINNING else f"from {start}"
        yield f"zone {account}/{zone.name}: plan {plan.kind} {since}"
    if new:
        connection.execute(PLAN.insert(), new)
