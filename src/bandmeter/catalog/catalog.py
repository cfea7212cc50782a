"""The catalog as the rest of the program sees it: lookups from memory, changes in transactions.

A lookup asks the database whether anything changed (2 µs on SQLite) and otherwise answers from dictionaries, which are
dropped together when it did. What was read is kept with the version read *before* it, so a change in between can only
cause a read too many, never an old answer.
"""

from __future__ import annotations

import bisect
import contextlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import sqlalchemy as sa

from bandmeter.catalog import apply as application
from bandmeter.catalog import changes, connect, documents, keys, plans
from bandmeter.catalog.tables import ACCOUNT, CHANGE, IDENTITY, KEY, ZONE
from bandmeter.domain import errors, grid, tenancy, usage
from bandmeter.domain.errors import BandmeterError


class _Cache:
    """What was read at one version. Only what exists is kept, so strangers' guesses cannot fill the memory."""

    __slots__ = ("accounts", "everyone", "everything", "keys", "numbers", "plans", "version", "zones")

    def __init__(self, version: int) -> None:
        self.version = version
        self.accounts: dict[str, tenancy.Account] = {}
        self.everyone: list[tenancy.Account] | None = None
        self.everything: list[tenancy.Zone] | None = None
        self.keys: dict[str, tuple[tenancy.Key, bytes]] = {}
        self.numbers: dict[int, tenancy.Zone] = {}
        self.plans: dict[str, dict[int | None, list[plans.Plan]]] = {}
        self.zones: dict[str, dict[str, tenancy.Zone]] = {}


class Caller(NamedTuple):
    """Who sent a key: the key, its account (None: an operator's), and the catalog's version before both were read."""

    key: tenancy.Key
    account: tenancy.Account | None
    version: int


class Catalog:
    """Accounts, zones, identities, keys and plans. Thread-safe; any number of processes may open the same one.

    Every lookup and change raises `unavailable` when the database cannot be read or written.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(begin="IMMEDIATE")
        self.version: Callable[[], int]
        self.version, self._stop_watching = connect.watch(engine)
        self._cache = _Cache(self.version())

    @classmethod
    def open(cls, url: str) -> Self:
        """Open (and on the first time make) the catalog at `url`, such as `sqlite:////dir/catalog.db`.

        Raises `input_invalid` for an unusable url or a schema from the future, `unavailable` when it cannot be opened.
        """
        engine = connect.open_engine(url)
        try:
            connect.migrate(engine)
            return cls(engine)
        except (sa.exc.DBAPIError, OSError) as error:
            raise _unavailable(error) from error

    def close(self) -> None:
        """Release the connections."""
        self._stop_watching()
        self._engine.dispose()

    # ------------------------------------------------------------ lookups

    def check(self) -> list[str]:
        """What the database says of its own pages and indexes; [] when they are whole, or it tells nothing."""
        if self._engine.dialect.name != "sqlite":
            return []
        with self._transaction(self._engine) as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check").scalars()
            return [f"catalog: {fault}" for fault in found if fault != "ok"]

    def account(self, account: str) -> tenancy.Account | None:
        """An account by its id."""
        return self._account_in(self._fresh(), account)

    def _account_in(self, cache: _Cache, account: str) -> tenancy.Account | None:
        found = cache.accounts.get(account)
        if found is None:
            rows = self._read(sa.select(ACCOUNT).where(ACCOUNT.c.id == account))
            cache.accounts |= {row.id: changes.as_account(row) for row in rows}
            found = cache.accounts.get(account)
        return found

    def accounts(self) -> list[tenancy.Account]:
        """All accounts, by id."""
        cache = self._fresh()
        if cache.everyone is None:
            rows = self._read(sa.select(ACCOUNT).order_by(ACCOUNT.c.id))
            cache.everyone = [changes.as_account(row) for row in rows]
        return list(cache.everyone)

    def zone(self, account: str, name: str) -> tenancy.Zone | None:
        """A zone by account and name, whatever its status."""
        return self._zones_of(account).get(name)

    def zones(self, account: str | None = None) -> list[tenancy.Zone]:
        """The zones of an account, or of all, whatever their status, by account and name."""
        if account is not None:
            return list(self._zones_of(account).values())
        cache = self._fresh()
        if cache.everything is None:
            cache.everything = self._read_zones(sa.true())
        return list(cache.everything)

    def zone_by_number(self, number: int) -> tenancy.Zone | None:
        """A zone by its number in the usage store."""
        cache = self._fresh()
        found = cache.numbers.get(number)
        if found is None:
            cache.numbers |= {zone.number: zone for zone in self._read_zones(ZONE.c.number == number)}
            found = cache.numbers.get(number)
        return found

    def highest_number(self) -> int:
        """The highest number that a zone has; 0 without zones. Zones are never removed, so none above was given out."""
        return int(self._read(sa.select(sa.func.coalesce(sa.func.max(ZONE.c.number), 0)))[0][0])

    def plan(self, zone: tenancy.Zone, month: str) -> tuple[str, dict[str, Any]] | None:
        """(kind, fields) of the plan in force for a month `YYYY-MM`: the zone's own, else its account's.

        The fields are shared: do not change them.
        """
        cache = self._fresh()
        found = cache.plans.get(zone.account)
        if found is None:
            found = self._read_plans(zone.account)
            if found or self.account(zone.account):
                cache.plans[zone.account] = found
        for level in (zone.number, None):
            own = found.get(level, ())
            at = bisect.bisect_right(own, month, key=lambda plan: plan.start)
            if at:
                return own[at - 1].kind, dict(own[at - 1].fields)
        return None

    def price_plans(self, account: str) -> list[tuple[str, plans.Plan]]:
        """All plans of an account, under "", and of its zones, by the zone's name and the plan's start.

        Raises `account_unknown`.
        """
        with self._transaction(self._engine) as connection:
            changes.need_account(connection, account)
            found = changes.read_plans(connection, account)
        names = {zone.number: zone.name for zone in self.zones(account)}
        return sorted(
            ((names[number] if number else "", plan) for number, own in found.items() for plan in own),
            key=lambda named: (named[0], named[1].start),
        )

    def keys(self, account: str | None) -> list[tenancy.Key]:
        """An account's keys, oldest first; None: the operator's."""
        mine = KEY.c.account.is_(None) if account is None else KEY.c.account == account
        return [
            changes.as_key(row) for row in self._read(sa.select(KEY).where(mine).order_by(KEY.c.created_s, KEY.c.id))
        ]

    def authenticate(self, secret: str, now_s: int) -> Caller:
        """Who has the key whose secret this is, in one look at the catalog.

        Raises `key_invalid`, the same for a key that is unknown, wrong, revoked or expired, or whose account is gone.
        """
        number = keys.key_id(secret)
        cache = self._fresh()
        found = cache.keys.get(number or "")
        if found is None and number is not None:
            rows = self._read(sa.select(KEY).where(KEY.c.id == number))
            cache.keys |= {row.id: (changes.as_key(row), row.digest) for row in rows}
            found = cache.keys.get(number)
        # Compared also when there is no such key, so that the time taken says little about which ids exist.
        matches = hmac.compare_digest(keys.digest(secret[:128]), found[1] if found else keys.NO_DIGEST)
        if not matches or found is None or found[0].revoked or _is_past(found[0].expires_s, now_s):
            raise BandmeterError(errors.KEY_INVALID, "The key is unknown, revoked or expired: ask for a new one.")
        key = found[0]
        account = None if key.account is None else self._account_in(cache, key.account)
        if account is None and key.account is not None:
            raise BandmeterError(errors.KEY_INVALID, "The key's account is gone.")
        return Caller(key, account, cache.version)

    # ------------------------------------------------------------ changes

    def add_account(self, account: tenancy.Account) -> None:
        """Add an account; raises `input_invalid`, or `conflict` when the id is taken."""
        with self._change() as connection:
            changes.add_account(connection, account)

    def suspend_account(self, account: str) -> None:
        """Suspend an account: it answers, but its proxies should not serve it. Raises `account_unknown`."""
        with self._change() as connection:
            changes.set_account_status(connection, account, tenancy.AccountStatus.SUSPENDED)

    def resume_account(self, account: str) -> None:
        """Undo a suspension; raises `account_unknown`."""
        with self._change() as connection:
            changes.set_account_status(connection, account, tenancy.AccountStatus.ACTIVE)

    def add_zone(
        self,
        account: str,
        name: str,
        network: str = "dc",
        product: str = "",
        identities: tuple[str, ...] = (),
        *,
        side: usage.Side | None = None,
        now_s: int,
    ) -> tenancy.Zone:
        """Add a zone; `side` None: the one its network bills. Raises `account_unknown`, `input_invalid`, `conflict`."""
        billed = side or tenancy.default_side(network)
        zone = tenancy.Zone(0, account, name, network, product, billed, identities=identities, created_s=now_s)
        with self._change() as connection:
            return changes.add_zone(connection, zone)

    def set_zone_status(self, account: str, name: str, status: tenancy.ZoneStatus) -> None:
        """Suspend, resume or delete a zone, whose history stays; raises `account_unknown`, `zone_unknown`."""
        with self._change() as connection:
            changes.set_zone_status(connection, account, name, status)

    def add_identity(self, account: str, zone: str, identity: str) -> None:
        """Give an identity to a zone; nothing happens when it has it. Raises `conflict` when another zone has it."""
        with self._change() as connection:
            changes.add_identity(connection, account, zone, identity)

    def remove_identity(self, account: str, zone: str, identity: str) -> None:
        """Take an identity from a zone; raises `input_invalid` when it is not the zone's."""
        with self._change() as connection:
            changes.remove_identity(connection, account, zone, identity)

    def add_key(
        self,
        account: str | None,
        scope: tenancy.Scope,
        expires_s: int | None,
        now_s: int,
        *,
        same_body_once: bool = False,
    ) -> str:
        """Make a key and return it: it cannot be read again. `account` None: an operator's, above accounts."""
        if _is_past(expires_s, now_s):
            raise BandmeterError(errors.INPUT_INVALID, "The key would have expired already: choose a later time.")
        number, secret = keys.new_key()
        with self._change() as connection:
            key = tenancy.Key(number, account, scope, expires_s, created_s=now_s, same_body_once=same_body_once)
            changes.add_key(connection, key, keys.digest(secret))
        return secret

    def revoke_key(self, key: str) -> None:
        """Revoke a key by its id, for good; raises `input_invalid` when there is none of that id."""
        with self._change() as connection:
            changes.revoke_key(connection, key)

    def set_plan(
        self,
        account: str,
        zone: str | None,
        kind: str,
        fields: Mapping[str, Any],
        start_month: str | None = None,
        *,
        now_s: int,
    ) -> str:
        """Put a (checked) plan in force; the month it starts with, `0000-00` for the beginning, "" for no change.

        Raises `account_unknown`, `zone_unknown`, `input_invalid`, and `conflict` when it would change a past month.
        """
        with self._change() as connection:
            new = plans.Plan(start_month or "", kind, fields)
            return changes.set_plan(connection, account, zone, new, grid.month_name(now_s))

    def apply(self, document: Any, now_s: int, check_plan: documents.CheckPlan) -> list[str]:
        """Make the catalog hold what `document` says, removing nothing; a sentence for each thing that changed.

        `check_plan(kind, fields)` raises `input_invalid` for a plan that is none. Raises `input_invalid` naming the
        path of what is wrong, or `conflict`; then nothing has changed.
        """
        entries = documents.parse(document, check_plan)
        with self._change() as connection:
            return application.apply(connection, entries, now_s)

    # ------------------------------------------------------------ the database

    def _fresh(self) -> _Cache:
        version = self.version()
        cache = self._cache
        if cache.version != version:
            cache = self._cache = _Cache(version)
        return cache

    def _zones_of(self, account: str) -> dict[str, tenancy.Zone]:
        cache = self._fresh()
        found = cache.zones.get(account)
        if found is None:
            found = {zone.name: zone for zone in self._read_zones(ZONE.c.account == account)}
            if found:
                cache.zones[account] = found
        return found

    def _read_zones(self, where: sa.ColumnElement[bool]) -> list[tenancy.Zone]:
        owned: dict[int, list[str]] = {}
        with self._transaction(self._engine) as connection:
            found = connection.execute(sa.select(ZONE).where(where).order_by(ZONE.c.account, ZONE.c.name)).all()
            query = sa.select(IDENTITY).join(ZONE).where(where).order_by(IDENTITY.c.identity)
            for identity, number in connection.execute(query):
                owned.setdefault(number, []).append(identity)
        return [changes.as_zone(row, tuple(owned.get(row.number, ()))) for row in found]

    def _read_plans(self, account: str) -> dict[int | None, list[plans.Plan]]:
        with self._transaction(self._engine) as connection:
            return changes.read_plans(connection, account)

    def _read(self, query: sa.Select[Any]) -> list[Any]:
        with self._transaction(self._engine) as connection:
            return list(connection.execute(query).all())

    @contextlib.contextmanager
    def _change(self) -> Iterator[sa.Connection]:
        with self._transaction(self._writer) as connection:
            yield connection
            connection.execute(CHANGE.update().values(number=CHANGE.c.number + 1))

    @staticmethod
    @contextlib.contextmanager
    def _transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise _unavailable(error) from error


def _unavailable(error: Exception) -> BandmeterError:
    cause = getattr(error, "orig", None) or error  # without the statement, whose parameters may be private
    return BandmeterError(
        errors.UNAVAILABLE,
        f"The catalog cannot be used now ({cause}): check its disk and permissions, then try again.",
    )


def _is_past(expires_s: int | None, now_s: int) -> bool:
    return expires_s is not None and now_s >= expires_s
