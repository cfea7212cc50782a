"""`GET /v1/usage`: usage of any zones, by any bucket and split, in one call.

Rows are ordered by account, zone and bucket, then by the other columns of `group_by`; a page ends where `limit` is
reached. Where rows do not mix zones, a page reads only the zones that it shows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bandmeter.domain import localtime
from bandmeter.domain.contracts import EVERY_ACCOUNT, Call, Reply
from bandmeter.domain.grid import Resolution, Span, Unit
from bandmeter.domain.questions import SPAN_SECONDS_MAX
from bandmeter.domain.usage import Side
from bandmeter.reports.folding import gaps
from bandmeter.web.native import chosen, cursor, parameters, tables
from bandmeter.web.native.chosen import Chosen
from bandmeter.web.native.fold import COUNTERS, Asked, Folder, Key

if TYPE_CHECKING:
    from bandmeter.catalog import Catalog
    from bandmeter.reports import Reports

ZONES_PER_PAGE = 1_000  # are read for one page at most; a page that meets only idle ones is short, or empty
ZONES_AT_ONCE = 100
SAMPLES_AT_ONCE = 100_000  # of zones that are read together though their rows stay apart
SAMPLES_MAX = 2_000_000  # buckets times zones that one row may mix: some seconds at worst
_LAST = 1 << 62  # as a key's bucket: after every row of its zone


def respond(reports: Reports, catalog: Catalog, call: Call, followed: tuple[str, ...] = ()) -> Reply:
    """A page of rows, and where the next one begins; with the coverage of the `followed` sources."""
    form, limit = parameters.read_form(call), parameters.read_limit(call)
    asked, after = _read(call)
    zones = chosen.choose(reports, catalog, call)
    folder = Folder(reports, asked)
    found, last = _page(folder, _parts(asked, zones, after, limit), after, limit, by_zone=asked.by_zone)
    following = cursor.write(call, [*asked.span, *last]) if last else None
    reported_ms, missing = _coverage(reports, followed, asked)
    committed_ms = folder.fresh.committed_ms or reports.store.committed_ms()  # also where there was no zone to read
    fresh = folder.fresh._replace(committed_ms=committed_ms, reported_ms=reported_ms)
    about = {
        "next": following,
        **parameters.show_span(asked.span, asked.timezone),
        "timezone": asked.timezone,
        "fresh": fresh._asdict(),
        "gaps": [parameters.show_span(gap, asked.timezone) for gap in missing],
    }
    table = tables.Table(_columns(asked), [_row(asked, *row) for row in found], asked.timezone, about)
    headers = {
        "Bandmeter-Next-Cursor": following,
        "Bandmeter-Newest-Ms": fresh.newest_ms,
        "Bandmeter-Committed-Ms": fresh.committed_ms,
        "Bandmeter-Reported-Ms": fresh.reported_ms,
    }
    return tables.render(table, form, {name: str(value) for name, value in headers.items() if value is not None})


def _coverage(reports: Reports, followed: tuple[str, ...], asked: Asked) -> tuple[int | None, list[Span]]:
    """Up to when every followed source has reported, None when one never did; and the gaps before."""
    if not followed:
        return None, []
    found = reports.store.coverage(asked.span.start * 1000, max(asked.span.end, asked.now_s + 1) * 1000)
    mine = {name: found[name] for name in followed if name in found}
    reported = [stretches[-1][1] for stretches in mine.values()]
    return (min(reported) if len(mine) == len(set(followed)) else None), gaps(mine, asked.span)


# ---------------------------------------------------------------- reading the call


def _read(call: Call) -> tuple[Asked, Key]:
    """What is asked, and after which key the page begins, () for the first."""
    unit = parameters.UNITS.get(parameters.read_choice(call, parameters.RESOLUTION) or "")
    timezone = call.parameters.get("timezone", localtime.UTC)
    localtime.timezone(timezone)
    side = parameters.read_choice(call, parameters.SIDE)
    groups = parameters.read_choices(call, parameters.GROUP_BY, parameters.GROUPS)
    if groups is None:
        groups = ("account", "zone") if call.account is EVERY_ACCOUNT else ("zone",)
    hosts = parameters.read_hosts(call)
    by_host = hosts is not None or parameters.HOST in groups
    if by_host:
        parameters.check_by_host(call, groups, unit, timezone)
    asked = Asked(
        span=parameters.read_span(call, (unit or Unit.DAY) if by_host else unit, timezone),
        unit=unit,
        timezone=timezone,
        side=Side(side) if side else None,
        groups=groups,
        by_account="account" in groups or chosen.is_one_account(call),
        is_wanted=parameters.read_filter(call),
        by_host=by_host,
        hosts=hosts,
        rates=parameters.read_rates(call),
        now_s=call.now_ms // 1000,
    )
    state = cursor.read(call)
    after: Key = ()
    if state is not None:
        span, after = _read_state(state, len(asked.splits))
        asked = dataclasses.replace(asked, span=parameters.check_span(span, unit))
    if by_host and not asked.span.is_aligned(Resolution.DAY):
        parameters.refuse(parameters.FROM, "and to must be midnights by host: hosts are kept by UTC day")
    if asked.span.end - asked.span.start > SPAN_SECONDS_MAX:
        parameters.refuse(parameters.FROM, f"and to may be at most {SPAN_SECONDS_MAX // Resolution.DAY} days apart")
    return asked, after


def _read_state(state: list[Any], splits: int) -> tuple[Span, Key]:
    """The first page's span, which its defaults may have made, and the last row's key."""
    kinds = (int, int, str, str, int, *[str] * splits)
    fits = len(state) in {5, len(kinds)} and all(type(v) is kind for v, kind in zip(state, kinds, strict=False))
    if not fits or state[0] > state[1]:
        cursor.refuse()
    return Span(state[0], state[1]), tuple(state[2:])


# ---------------------------------------------------------------- pages


def _parts(asked: Asked, zones: Chosen, after: Key, limit: int) -> Iterator[Chosen]:
    """The zones in parts that share no row, in the rows' order, from where the page begins."""
    if not asked.by_account:
        yield _checked(asked, zones)
        return
    # About as many zones as a page shows, so that a short page is quick.
    at_once = min(limit // asked.samples, SAMPLES_AT_ONCE // asked.samples, ZONES_AT_ONCE) or 1
    for account, owned in zones:
        if not asked.by_zone:
            if not _is_done((account, ""), after):
                yield _checked(asked, [(account, owned)])
            continue
        rest = [zone for zone in owned if not _is_done((account, zone.name), after)]
        rest.sort(key=lambda zone: zone.name)
        for n in range(0, len(rest), at_once):
            yield [(account, rest[n : n + at_once])]


def _is_done(names: tuple[str, str], after: Key) -> bool:
    """Whether every row of these names was shown before the key `after`."""
    return bool(after) and (names < after[:2] or (names == after[:2] and after[2] == _LAST))


def _checked(asked: Asked, zones: Chosen) -> Chosen:
    count = sum(len(owned) for _, owned in zones)
    if count * asked.samples > SAMPLES_MAX:
        lacking = "account" if asked.by_zone else "zone"
        sentence = f"{count} zones are too many to mix over this period: split by {lacking}, or ask for less at a time"
        parameters.refuse(parameters.GROUP_BY, f"cannot leave out {lacking}: {sentence}")
    return zones


def _page(
    folder: Folder, parts: Iterator[Chosen], after: Key, limit: int, *, by_zone: bool
) -> tuple[list[tuple[Key, list[int]]], Key | None]:
    """Rows after the key `after`, and the key of the last one when there may be more."""
    rows: list[tuple[Key, list[int]]] = []
    read = 0
    reached: Key = ()
    for part in parts:
        if read >= ZONES_PER_PAGE:
            return rows, reached
        rows += [row for row in folder.fold(part) if row[0] > after]
        if len(rows) > limit:
            return rows[:limit], rows[limit - 1][0]
        account, owned = part[-1]
        read += len(owned)
        reached = (account, owned[-1].name if by_zone and owned else "", _LAST)
    return rows, None


def _columns(asked: Asked) -> dict[str, str]:
    return {
        "bucket": "time",
        **dict.fromkeys(asked.groups, "text"),
        **dict.fromkeys((*COUNTERS, *(rate.column for rate in asked.rates)), "number"),
    }


def _row(asked: Asked, key: Key, numbers: list[int]) -> list[Any]:
    account, zone, bucket, *values = key
    named = dict(zip(asked.splits, values, strict=True)) | {"account": account, "zone": zone}
    return [bucket, *(named[group] for group in asked.groups), *numbers]
