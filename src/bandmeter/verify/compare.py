"""Two stores' 5-minute rows side by side: what is stored, and what the logs say."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bandmeter.domain import grid, usage
from bandmeter.domain.contracts import Batch, SourceState, Store
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import NETWORK, Outcomes, Side
from bandmeter.ingest.batch.attribute import Attribution, Owner
from bandmeter.verify.findings import Findings

SPAN_SECONDS = 31 * Resolution.DAY  # that is compared at once: a busy zone's rows of a month fit into memory
BUCKETS = "5-minute buckets recounted"
OWNERS = "zones and identities recounted"
POURED_NUMBERS = 1_000_000  # in one transaction: 90,000 rows
NEWEST = 2**62  # no source has this number: what is poured is always new
NEW = SourceState(0, "", "", "", b"", 0, b"", 0, "", Outcomes(), None, None, "")

Rows = dict[tuple[int, int], list[int]]  # (bucket, dimensions) → the eight counters of `usage.ROW_COUNTERS`


class _Part(NamedTuple):
    """Rows of a store that belong to an owner: under which number, and into which zone they would be claimed today."""

    store: Store
    number: int
    side: str = ""
    zone: Zone | None = None


class _Traffic(NamedTuple):
    """Whose rows are compared."""

    name: str
    stored: list[_Part]
    recounted: list[_Part]


def pour(source: Store, target: Store) -> None:
    """Add all rows of a store to another, whose identities have numbers of their own."""
    names = {waiting.number: (waiting.identity, waiting.side) for waiting in source.unattributed()}
    flat = array("q")
    for number in list(source.numbers()):
        name = names.get(number)
        own = target.number_identities([name], 0)[name] if name else number
        for span in _spans([source.extent(number)]):
            for (bucket, dimensions), counters in _rows([_Part(source, number)], span).items():
                flat.extend((own, bucket, dimensions, *counters))
            if len(flat) >= POURED_NUMBERS:
                _write(target, flat)
                flat = array("q")
    _write(target, flat)


def _write(target: Store, flat: array[int]) -> None:
    target.write(Batch(NEW, NEW._replace(position=1), flat, {}, [], 0, considered=NEWEST))


def compare(stored: Store, recounted: Store, zones: Iterable[Zone], findings: Findings, *, is_complete: bool) -> None:
    """Compare every bucket of every owner. `is_complete`: all logs were recounted, else what is stored may be more."""
    attribution = Attribution(zones := list(zones))
    if any(
        waiting.identity == usage.OTHERS and any(waiting.target + waiting.client) for waiting in stored.unattributed()
    ):
        findings.leaves_out(
            "zones were not compared: some identities came beyond a day's bound, and share one name since then."
        )
        return
    owners: dict[int | tuple[str, str], _Traffic] = {}
    names = {zone.number: f"zone {zone.account}/{zone.name}" for zone in zones}
    for store, is_stored in ((stored, True), (recounted, False)):
        waiting = {u.number: (u.identity, u.side) for u in store.unattributed()}
        for number in store.numbers():
            identity, side = waiting.get(number, ("", ""))
            zone = attribution.find(Owner(identity, is_named=False)) if identity else None
            zone = zone if isinstance(zone, Zone) else None
            key = zone.number if zone else waiting.get(number, number)
            name = names.get(key, f"zone number {key}") if isinstance(key, int) else f"identity {key[0]}"
            owner = owners.setdefault(key, _Traffic(name, [], []))
            (owner.stored if is_stored else owner.recounted).append(_Part(store, number, side, zone))
    unkept = sum(source.outcomes.no_target for source in stored.sources())
    for owner in owners.values():
        _compare_owner(owner, findings, unkept, is_complete=is_complete)


def _compare_owner(owner: _Traffic, findings: Findings, unkept: int, *, is_complete: bool) -> None:
    """`unkept`: requests that reached no target, whose client's side is kept only for who has a zone by then."""
    findings.looked_at(OWNERS)
    wrong, first, lacking = 0, "", 0
    parts = (*owner.stored, *owner.recounted) if is_complete else owner.recounted
    for span in _spans(part.store.extent(part.number) for part in parts):
        stored, recounted = (_of_any_network(_rows(parts, span)) for parts in (owner.stored, owner.recounted))
        for key in sorted(stored.keys() | recounted.keys() if is_complete else recounted.keys()):
            findings.looked_at(BUCKETS)
            ours, theirs = stored.get(key, [0] * 8), recounted.get(key, [0] * 8)
            is_wrong = ours != theirs if is_complete else any(a < b for a, b in zip(ours, theirs, strict=True))
            less = _lacking(ours, theirs) if is_wrong else 0
            if 0 < less <= unkept - lacking:
                lacking += less
                continue
            if is_wrong and not wrong:
                first = f"{grid.format_time(key[0])}: stored {_shown(ours)}, in the logs {_shown(theirs)}"
            wrong += is_wrong
    if lacking:
        findings.leaves_out(
            f"{owner.name}: on the client's side it lacks {lacking} requests that reached no target, and came before it"
            " had a zone, or this one."
        )
    if wrong:
        what = "are not what the logs say" if is_complete else "hold less than the logs say"
        findings.differs(f"{owner.name}: {wrong} buckets {what}, the first {first}.")


def _lacking(ours: list[int], theirs: list[int]) -> int:
    """How many requests of the client's side are not stored, where nothing else differs; else 0."""
    less = [b - a for a, b in zip(ours[4:], theirs[4:], strict=True)]
    return less[0] if ours[:4] == theirs[:4] and min(less) >= 0 else 0


def _shown(counters: list[int]) -> str:
    return " and ".join(
        f"{side[0]} requests, {side[2]} bytes up and {side[3]} down on the {name}'s side"
        for side, name in ((counters[:4], Side.TARGET), (counters[4:], Side.CLIENT))
    )


def _rows(parts: Iterable[_Part], span: Span) -> Rows:
    """The parts' rows added up, as they would be were they claimed today."""
    found: Rows = {}
    for store, number, side, zone in parts:
        own: Rows = {}
        for billed, offset in ((Side.TARGET, 0), (Side.CLIENT, 4)):
            columns = store.read([number], billed, Resolution.FIVE_MINUTES, span).get(number, usage.Columns())
            for bucket, dimensions, *counters in columns.rows:
                own.setdefault((bucket, dimensions), [0] * 8)[offset : offset + 4] = counters
        for (bucket, dimensions), counters in own.items():
            row: tuple[int, ...] = (number, bucket, dimensions, *counters)
            if zone:
                row = usage.claimed(row, side, zone.number, zone.side, zone.network)
            total = found.setdefault((row[1], row[2]), [0] * 8)
            for i, value in enumerate(row[3:]):
                total[i] += value
    return found


def _of_any_network(rows: Rows) -> Rows:
    """The rows without their network: it is the zone's of the day on which they were counted, and may have changed."""
    found: Rows = {}
    for (bucket, dimensions), counters in rows.items():
        rest = dimensions - (NETWORK.code(dimensions) << NETWORK.shift)
        known = found.get((bucket, rest))
        found[bucket, rest] = counters if known is None else list(map(operator.add, known, counters))
    return found


def _spans(extents: Iterable[Span | None]) -> Iterator[Span]:
    known = [extent for extent in extents if extent]
    if known:
        end = max(extent.end for extent in known)
        for start in range(min(extent.start for extent in known), end, SPAN_SECONDS):
            yield Span(start, min(start + SPAN_SECONDS, end))
