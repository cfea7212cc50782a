"""A batch's folded groups become rows of zones: which side counts, and what became of each record.

A zone bills one side. A record that lacks this side, having reached no target, is `no_target`: accepted, and 0 bytes
and 0 requests there; what it has of the other side is kept all the same. Traffic of nobody is judged by the format's
side, so that requests which a proxy refused do not fill the store with the names that an attacker thought of.
"""

from __future__ import annotations

import base64
import binascii
import re
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bandmeter.domain.contracts import NO_HOSTS, Hosts
from bandmeter.domain.usage import DIMENSION_BITS, NETWORK, SIDED, UNSIDED, Outcomes, Side
from bandmeter.ingest.batch.query import (
    BUCKET_MS,
    BUCKET_SHIFT,
    FLAG_BITS,
    FLAG_CLIENT,
    FLAG_NO_TARGET,
    FLAG_PLAIN,
    FLAG_TARGET,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bandmeter.domain.contracts import Format, Store
    from bandmeter.domain.tenancy import Zone
    from bandmeter.ingest.batch.attribute import Owner
    from bandmeter.ingest.batch.decode import Groups

MS_A_DAY = 86_400_000
BUCKET_SECONDS = BUCKET_MS // 1000


class Placed(NamedTuple):
    """Rows as `usage.ROW`, flat; the newest counted traffic by zone number; and what became of the records, by body.

    `newest_of`: the newest counted traffic by body. `hosts`: the zones' traffic by day and target host.
    `unknown`: owners that must be zones and are none, whose records are rejects; none of them is in the rest.
    """

    rows: array[int]
    newest_ms: Mapping[int, int]
    outcomes: Mapping[int, Outcomes]
    unknown: Sequence[Owner]
    newest_of: Mapping[int, int] = {}
    hosts: Hosts = NO_HOSTS

    @property
    def newest(self) -> int | None:
        """The newest counted traffic of all, in ms."""
        return max(self.newest_of.values(), default=None)

    @property
    def total(self) -> Outcomes:
        """The outcomes of all bodies."""
        total = Outcomes()
        for one in self.outcomes.values():
            total = total.plus(one)
        return total


NOTHING = Placed(array("q"), {}, {}, ())


def place(
    groups: Groups,
    find: Callable[[Owner], Zone | str | None],
    store: Store,
    now_ms: int,
    *,
    judged_by: Side,
    plain_side: Side | None = None,
) -> Placed:
    """The rows of what was decoded.

    `find` gives an owner's zone, the name under which its traffic waits, or None when it should be a zone and is none.
    `judged_by`: the side by which traffic of nobody is judged; `plain_side`: whose exchange bytes are that do not say
    it, None: what the zone bills.
    """
    owners = [find(owner) for owner in groups.owners]
    unknown = [owner for owner, found in zip(groups.owners, owners, strict=True) if found is None]
    if unknown:
        groups = groups.of_owners([found is not None for found in owners])
    if not len(groups.key):
        return NOTHING._replace(unknown=unknown)
    placing = _Placing(groups, owners, judged_by, plain_side)
    hosts = NO_HOSTS
    if groups.hosts is not None and len(groups.hosts.key):
        hosts = _Placing(groups.hosts, owners, judged_by, plain_side).place_hosts()
    return placing.place(store, now_ms // MS_A_DAY)._replace(unknown=unknown, hosts=hosts)


class _Placing:
    """The columns that decide: what a group has, what its owner bills, and whether it counts."""

    def __init__(
        self, groups: Groups, owners: Sequence[Zone | str | None], judged_by: Side, plain_side: Side | None
    ) -> None:
        self.groups, self.owners = groups, owners
        self.owner = groups.owner
        flags = (groups.key >> DIMENSION_BITS) & ((1 << FLAG_BITS) - 1)
        self.is_unsided = (flags & (FLAG_TARGET | FLAG_CLIENT)) == 0
        self.is_nobody = self._of_owner([isinstance(owner, str) for owner in owners])
        billed = [judged_by if isinstance(owner, str) or owner is None else owner.side for owner in owners]
        billed_client = self._of_owner([side is Side.CLIENT for side in billed])
        plain_client = billed_client if plain_side is None else np.full(len(flags), plain_side is Side.CLIENT)
        is_plain = (flags & FLAG_PLAIN) != 0
        self.names_target, self.names_client = (flags & FLAG_TARGET) != 0, (flags & FLAG_CLIENT) != 0
        has_target = self.names_target | (is_plain & ~plain_client & ((flags & FLAG_NO_TARGET) == 0))
        has_client = self.names_client | (is_plain & plain_client)
        self.is_counted = np.where(billed_client, has_client | has_target, has_target)
        # A nobody's bytes that did not say their side wait on the target's, whatever its format bills.
        waits = self.is_nobody & self.is_unsided & (plain_side is None)
        self.has_target = np.where(waits, self.is_counted, has_target)
        self.has_client = has_client & ~waits
        self.is_unsided &= plain_side is None

    def place(self, store: Store, day: int) -> Placed:
        numbers, networks = self._numbers(lambda wanted: store.number_identities(wanted, day))
        dimensions = self.groups.key & ((1 << DIMENSION_BITS) - 1)
        dimensions = np.where(NETWORK.code(dimensions) == 0, networks << NETWORK.shift, 0) + dimensions
        rows = np.stack([numbers, self._buckets(), dimensions, *self._counters()], axis=1)
        kept = rows[:, 3:].any(axis=1) & (self.is_counted | ~self.is_nobody)
        counted, newest_ms = self.is_counted, self.groups.newest_ms[self.is_counted]
        return Placed(
            _flat(rows[kept]),
            _newest(numbers[counted], newest_ms),
            self._outcomes(),
            (),
            _newest(self.groups.body[counted], newest_ms),
        )

    def place_hosts(self) -> Hosts:
        """The same of groups by day and host. What waits for a zone is in no breakdown."""
        zones = [0 if owner is None or isinstance(owner, str) else owner.number for owner in self.owners]
        rows = np.stack([self._of_owner(zones), self._buckets(), *self._counters()], axis=1)
        kept = (rows[:, 0] > 0) & rows[:, 2:].any(axis=1)
        return Hosts(self.groups.host[kept].tolist(), _flat(rows[kept]))

    def _buckets(self) -> Any:
        return (self.groups.key >> BUCKET_SHIFT) * BUCKET_SECONDS

    def _counters(self) -> list[Any]:
        return [
            *self._side("target", self.has_target, self.names_target),
            *self._side("client", self.has_client, self.names_client),
        ]

    def _of_owner(self, values: Sequence[Any]) -> Any:
        return np.array(values)[self.owner]

    def _side(self, side: str, has: Any, is_named: Any) -> list[Any]:
        """One side's four counters: the bytes that name it, else the plain ones; 0 where the side is absent."""
        groups, sums = self.groups, self.groups.sums
        up = np.where(is_named, sums[f"{side}_bytes_up"], sums["bytes_up"])
        down = np.where(is_named, sums[f"{side}_bytes_down"], sums["bytes_down"])
        return [np.where(has, counter, 0) for counter in (groups.requests, groups.successes, up, down)]

    def _outcomes(self) -> dict[int, Outcomes]:
        groups = self.groups
        bodies, place = np.unique(groups.body, return_inverse=True)
        masks = (self.is_counted & ~self.is_nobody, ~self.is_counted, self.is_counted & self.is_nobody)
        sums = [np.zeros(len(bodies), dtype=np.int64) for _ in masks]
        for total, mask in zip(sums, masks, strict=True):
            np.add.at(total, place[mask], groups.records[mask])
        by_body = zip(bodies.tolist(), *(total.tolist() for total in sums), strict=True)
        return {
            body: Outcomes(counted + no_target + waiting, counted, 0, no_target, waiting)
            for body, counted, no_target, waiting in by_body
        }

    def _numbers(
        self, number_identities: Callable[[list[tuple[str, str]]], dict[tuple[str, str], int]]
    ) -> tuple[Any, Any]:
        """Each group's number in the store, and its owner's network code; nobody's are numbered when they must wait."""
        zones = [None if isinstance(owner, str) else owner for owner in self.owners]
        numbers = self._of_owner([zone.number if zone else 0 for zone in zones])
        networks = self._of_owner([NETWORK.values.index(zone.network) if zone else 0 for zone in zones])
        waits = self.is_nobody & self.is_counted
        pairs = np.unique(np.stack([self.owner[waits], self.is_unsided[waits]], axis=1), axis=0).tolist()
        if pairs:
            wanted = {(n, plain): (str(self.owners[n]), UNSIDED if plain else SIDED) for n, plain in pairs}
            given = number_identities(sorted(set(wanted.values())))
            of_pair = np.zeros((len(self.owners), 2), dtype=np.int64)
            for (n, plain), key in wanted.items():
                of_pair[n, int(plain)] = given[key]
            numbers[waits] = of_pair[self.owner[waits], self.is_unsided[waits].astype(np.int64)]
        return numbers, networks


def _flat(rows: Any) -> array[int]:
    flat = array("q")
    flat.frombytes(rows.reshape(-1).view(np.uint8))
    return flat


def _newest(numbers: Any, newest_ms: Any) -> dict[int, int]:
    order = np.lexsort((newest_ms, numbers))
    return dict(zip(numbers[order].tolist(), newest_ms[order].tolist(), strict=True))  # the last of each number wins


def without_secrets(log_format: Format, text: bytes) -> bytes:
    """A rejected line as it may be kept: of a Basic credential only the user stays."""
    if not log_format.secret:
        return text
    return re.sub(log_format.secret.encode(), lambda match: match[1] + _user_only(match[2]), text)


def _user_only(credential: bytes) -> bytes:
    try:
        user = base64.b64decode(credential, validate=True).partition(b":")[0]
    except binascii.Error:
        return b"-"
    return base64.b64encode(user + b":")
