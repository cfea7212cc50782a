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

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import NETWORK, SIDED, UNSIDED, Outcomes, Side
from bandmeter.ingest.attribute import Attribution, Key
from bandmeter.ingest.decode import FLAG_CLIENT, FLAG_NO_TARGET, FLAG_PLAIN, FLAG_TARGET

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bandmeter.domain.contracts import Format, Store
    from bandmeter.domain.tenancy import Zone
    from bandmeter.ingest.decode import Decoder

MS_A_DAY = 86_400_000


class Placed(NamedTuple):
    """Rows as `usage.ROW`, flat; the newest counted traffic by zone number; and what became of the records."""

    rows: array[int]
    newest_ms: Mapping[int, int]
    outcomes: Outcomes


NOTHING = Placed(array("q"), {}, Outcomes())


class _Owner(NamedTuple):
    """Who gets a key's traffic: a zone, or an unattributed identity (`network` 0)."""

    number: int
    side: Side
    network: int


def place(
    decoder: Decoder,
    keys: list[tuple[str | None, str | None, str | None]],
    attribution: Attribution,
    store: Store,
    now_ms: int,
) -> tuple[Placed, list[tuple[str, str]]]:
    """The rows of what `decoder` folded, and the (account, zone) pairs that name no zone: those are rejects."""
    owners: list[Zone | str] = []
    numbers: dict[Key, int] = {}
    unknown: list[tuple[str, str]] = []
    for key in map(Key._make, keys):
        zone = attribution.find(key)
        if zone is None and key.account is not None:
            unknown.append((key.account, key.zone or ""))
        else:
            numbers[key] = len(owners)
            owners.append(zone or attribution.unclaimed_name(key.identity))
    groups = decoder.place(numbers)
    if not len(groups["number"]):
        return NOTHING, unknown
    return _place_groups(groups, owners, decoder.format.side, store, now_ms // MS_A_DAY), unknown


def _place_groups(groups: dict[str, Any], owners: list[Zone | str], side: Side, store: Store, day: int) -> Placed:
    if any(np.ma.is_masked(values) for values in groups.values()):
        raise BandmeterError(errors.FAILURE, "A sum of the batch is beyond 64 bits: it was not counted.")
    columns = {name: np.asarray(values, dtype=np.int64) for name, values in groups.items()}
    flags = columns["flags"]
    is_unsided = (flags & (FLAG_TARGET | FLAG_CLIENT)) == 0
    is_nobody = np.array([isinstance(owner, str) for owner in owners])[columns["number"]]
    billed_client = np.array([_billed(owner, side) is Side.CLIENT for owner in owners])[columns["number"]]
    is_plain = (flags & FLAG_PLAIN) != 0
    plain_is_target = is_plain & ~billed_client & ((flags & FLAG_NO_TARGET) == 0)
    has_target = ((flags & FLAG_TARGET) != 0) | plain_is_target
    has_client = ((flags & FLAG_CLIENT) != 0) | (is_plain & billed_client)
    is_counted = np.where(billed_client, has_client | has_target, has_target)

    # A nobody's bytes that did not say their side wait on the target's, whatever its format bills.
    waits = is_nobody & is_unsided
    has_target, has_client = np.where(waits, is_counted, has_target), has_client & ~waits
    numbers, networks = _numbers(
        columns, owners, is_unsided, is_nobody & is_counted, lambda wanted: store.number_identities(wanted, day)
    )
    rows = np.stack(
        [
            numbers,
            columns["bucket"],
            np.where(NETWORK.code(columns["dimensions"]) == 0, networks << NETWORK.shift, 0) + columns["dimensions"],  # type: ignore[arg-type]
            *_side(columns, "target", has_target, (flags & FLAG_TARGET) != 0),
            *_side(columns, "client", has_client, (flags & FLAG_CLIENT) != 0),
        ],
        axis=1,
    )
    records = columns["records"]
    outcomes = Outcomes(
        received=int(records.sum()),
        counted=int(records[is_counted & ~is_nobody].sum()),
        no_target=int(records[~is_counted].sum()),
        unattributed=int(records[is_counted & is_nobody].sum()),
    )
    kept = rows[:, 3:].any(axis=1) & (is_counted | ~is_nobody)
    return Placed(array("q", rows[kept].tobytes()), _newest(numbers, columns["newest_ms"], is_counted), outcomes)


def _billed(owner: Zone | str, side: Side) -> Side:
    return side if isinstance(owner, str) else owner.side


def _side(columns: dict[str, Any], side: str, has: Any, is_named: Any) -> list[Any]:
    """One side's four counters: the bytes that name it, else the plain ones; 0 where the side is absent."""
    up = np.where(is_named, columns[f"{side}_bytes_up"], columns["bytes_up"])
    down = np.where(is_named, columns[f"{side}_bytes_down"], columns["bytes_down"])
    return [np.where(has, counter, 0) for counter in (columns["requests"], columns["successes"], up, down)]


def _numbers(
    columns: dict[str, Any],
    owners: list[Zone | str],
    is_unsided: Any,
    waits: Any,
    number_identities: Callable[[list[tuple[str, str]]], dict[tuple[str, str], int]],
) -> tuple[Any, Any]:
    """Each group's number in the store, and its owner's network code; nobody's are numbered when they must wait."""
    zones = [None if isinstance(owner, str) else owner for owner in owners]
    known = np.array([zone.number if zone else 0 for zone in zones], dtype=np.int64)
    networks = np.array([NETWORK.values.index(zone.network) if zone else 0 for zone in zones], dtype=np.int64)
    numbers = known[columns["number"]]
    pairs = np.unique(np.stack([columns["number"][waits], is_unsided[waits]], axis=1), axis=0).tolist()
    if pairs:
        wanted = {(n, plain): (str(owners[n]), UNSIDED if plain else SIDED) for n, plain in pairs}
        given = number_identities(sorted(set(wanted.values())))
        for (n, plain), key in wanted.items():
            numbers[waits & (columns["number"] == n) & (is_unsided == bool(plain))] = given[key]
    return numbers, networks[columns["number"]]


def _newest(numbers: Any, newest_ms: Any, is_counted: Any) -> dict[int, int]:
    numbers, newest_ms = numbers[is_counted], newest_ms[is_counted]
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
