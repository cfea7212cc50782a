"""Local hours, days and months are what a clock on the wall would make of the 5-minute rows, in every zone."""

from __future__ import annotations

import datetime as dt
import random
import zoneinfo
from array import array
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandmeter.catalog import Catalog
from bandmeter.domain import localtime, usage
from bandmeter.domain.contracts import Batch, SourceState
from bandmeter.domain.grid import Span, Unit
from bandmeter.domain.questions import SeriesQuestion, UsageQuestion
from bandmeter.domain.tenancy import Account
from bandmeter.domain.usage import Outcomes
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore

ZONES = sorted(zoneinfo.available_timezones() - {"localtime", "Factory"})  # this machine's under another name; and none
STEP, DAY = 300, 86_400
FIRST, LAST = (int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp()) for year in (2020, 2031))
START = SourceState(0, "files", "tsv", "a.log", b"", 0, b"", 0, "", Outcomes(), None, None, "")
KEYS = {
    Unit.FIVE_MINUTES: lambda local: local.timestamp(),
    Unit.HOUR: lambda local: (local.date(), local.hour, local.utcoffset()),
    Unit.DAY: lambda local: local.date(),
    Unit.MONTH: lambda local: (local.year, local.month),
}


def shown(second: int, zone: zoneinfo.ZoneInfo) -> dt.datetime:
    return dt.datetime.fromtimestamp(second, zone)


def changes(zone: zoneinfo.ZoneInfo) -> list[int]:
    """The days of 2020 to 2030 during which the clock is moved."""
    days = range(FIRST, LAST, DAY)
    offsets = [shown(day, zone).utcoffset() for day in days]
    return [day for day, (before, after) in zip(days, pairwise(offsets), strict=False) if before != after]


def walked(span: Span, unit: Unit, zone: zoneinfo.ZoneInfo) -> list[int]:
    """Where buckets start, found by looking at the clock every five minutes."""
    keys = {second: KEYS[unit](shown(second, zone)) for second in range(span.start - STEP, span.end + STEP, STEP)}
    return [second for second in range(span.start, span.end + STEP, STEP) if keys[second] != keys[second - STEP]]


def around(second: int, name: str, days: int = 1) -> Span:
    """Whole local days around a moment."""
    first = localtime.bucket(second - days * DAY, Unit.DAY, name)
    last = localtime.bucket(second + days * DAY, Unit.DAY, name)
    return Span(first.start, last.end)


@pytest.mark.parametrize("part", range(4))
def test_hours_and_days_of_every_zone_are_the_clocks(part):
    """In every zone, around some days on which its clock is moved and one on which it is not."""
    for name in ZONES[part::4]:
        chosen, zone = random.Random(name), zoneinfo.ZoneInfo(name)
        moved = changes(zone)
        for second in [*chosen.sample(moved, min(2, len(moved))), chosen.randrange(FIRST, LAST - DAY)]:
            span = around(second, name)
            for unit in (Unit.HOUR, Unit.DAY):
                assert list(localtime.edges(span, unit, name)) == walked(span, unit, zone), (name, span, unit)


@pytest.mark.parametrize("name", ["Asia/Kathmandu", "Australia/Lord_Howe", "America/Nuuk", "Africa/Casablanca"])
def test_months_of_ten_years_are_the_calendars(name):
    zone = zoneinfo.ZoneInfo(name)
    span = localtime.bucket(FIRST + 40 * DAY, Unit.MONTH, name)
    months = []
    while span.start < LAST:
        months.append(f"{shown(span.start, zone):%Y-%m-%d %H:%M}")
        span, before = localtime.bucket(span.end, Unit.MONTH, name), span
        assert span.start == before.end
    assert months[:-1] == [f"{y}-{m:02}-01 00:00" for y in range(2020, 2031) for m in range(1, 13)][1 : len(months)]
    assert len(months) >= 131


@pytest.fixture(scope="module")
def catalog(tmp_path_factory):
    made = Catalog.open(f"sqlite:///{tmp_path_factory.mktemp('catalog')}/catalog.db")
    made.add_account(Account("acme"))
    made.add_zone("acme", "z", now_s=0)
    yield made
    made.close()


def stored(rows: dict[int, int], number: int) -> MemoryStore:
    store, flat = MemoryStore(), array("q")
    for bucket, count in rows.items():
        flat.extend([number, bucket, usage.pack(scheme="http"), 1, 1, count, 1, 0, 0, 0, 0])
        flat.extend([number, bucket, usage.pack(scheme="https"), 1, 0, 0, count, 0, 0, 0, 0])
    assert store.write(Batch(START, START, flat, {}, [], 1))
    return store


def summed(rows: dict[int, int], edges: list[int]) -> dict[int, int]:
    sums: dict[int, int] = {}
    for bucket, count in sorted(rows.items()):
        start = max(edge for edge in edges if edge <= bucket)
        sums[start] = sums.get(start, 0) + 2 * count + 1
    return sums


moments = st.tuples(st.sampled_from(ZONES), st.floats(0, 1), st.booleans())


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(moments, st.sampled_from(sorted(Unit)), st.dictionaries(st.integers(0, 863), st.integers(1, 2**40), min_size=1))
def test_an_answer_adds_up_the_rows_that_a_clock_would(catalog, moment, unit, counts):
    """Usage and series, in every unit, equal the 5-minute rows grouped by what the zone's clock shows."""
    name, part, is_moved = moment
    zone = zoneinfo.ZoneInfo(name)
    days = (changes(zone) if is_moved else None) or range(FIRST + 40 * DAY, LAST - 40 * DAY, DAY)
    second = days[int(part * (len(days) - 1))]
    span = around(second, name)
    if unit is Unit.MONTH:
        bounds = [localtime.bucket(edge, unit, name) for edge in (span.start, span.end - 1)]
        span, wide = around(second, name), Span(bounds[0].start, bounds[1].end)
    else:
        wide = span
    rows = {span.start + place * STEP: count for place, count in counts.items() if span.start + place * STEP < span.end}
    reports = Reports(catalog, stored(rows, catalog.zone("acme", "z").number), PRICES)
    expected = summed(rows, walked(wide, unit, zone))

    answer = reports.answer(UsageQuestion("acme", wide, ("z",), resolution=unit, timezone=name))
    sums: dict[int, int] = {}
    for row in answer.zones[0].rows:
        sums[row.bucket] = sums.get(row.bucket, 0) + row.bytes_up + row.bytes_down
    assert sums == expected

    series = reports.answer(SeriesQuestion("acme", wide, ("z",), resolution=unit, timezone=name)).series[0]
    assert dict(zip(series.buckets, series.values, strict=True)) == expected
    assert list(series.buckets) == sorted(series.buckets)
