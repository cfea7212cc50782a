"""Local time: names, moments, edges, and which table answers."""

from __future__ import annotations

import datetime as dt
import random
from array import array

import pytest

from bandmeter.domain import errors, grid, localtime, usage
from bandmeter.domain.contracts import Batch, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span, Unit
from bandmeter.domain.questions import add_series
from bandmeter.domain.usage import Measure, Outcomes, Side
from bandmeter.store import MemoryStore, SqliteStore

START = SourceState(0, "files", "tsv", "a.log", b"", 0, b"", 0, "", Outcomes(), None, None, "")


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp())


# A row: zone, unit, a moment (UTC), its bucket (UTC), and the table from which it is added up.
CASES = [
    ("UTC", Unit.FIVE_MINUTES, "2026-06-02T10:17:01", "2026-06-02T10:15", "2026-06-02T10:20", Resolution.FIVE_MINUTES),
    ("UTC", Unit.HOUR, "2026-06-02T10:17:01", "2026-06-02T10:00", "2026-06-02T11:00", Resolution.HOUR),
    ("UTC", Unit.DAY, "2026-06-02T10:17:01", "2026-06-02T00:00", "2026-06-03T00:00", Resolution.DAY),
    ("UTC", Unit.MONTH, "2024-02-29T23:59:59", "2024-02-01T00:00", "2024-03-01T00:00", Resolution.DAY),
    ("Asia/Shanghai", Unit.DAY, "2017-08-20T16:00:00", "2017-08-20T16:00", "2017-08-21T16:00", Resolution.HOUR),
    ("Asia/Shanghai", Unit.HOUR, "2017-08-20T16:30:00", "2017-08-20T16:00", "2017-08-20T17:00", Resolution.HOUR),
    ("Asia/Shanghai", Unit.MONTH, "2017-08-20T16:00:00", "2017-07-31T16:00", "2017-08-31T16:00", Resolution.HOUR),
    # 23 and 25 hours
    ("Europe/Berlin", Unit.DAY, "2026-03-29T12:00:00", "2026-03-28T23:00", "2026-03-29T22:00", Resolution.HOUR),
    ("Europe/Berlin", Unit.DAY, "2026-10-25T12:00:00", "2026-10-24T22:00", "2026-10-25T23:00", Resolution.HOUR),
    ("Europe/Berlin", Unit.HOUR, "2026-10-25T01:10:00", "2026-10-25T01:00", "2026-10-25T02:00", Resolution.HOUR),
    # :30, :45, and clocks that are moved by half an hour
    ("Asia/Kolkata", Unit.DAY, "2026-06-02T10:00:00", "2026-06-01T18:30", "2026-06-02T18:30", Resolution.FIVE_MINUTES),
    (
        "Asia/Kathmandu",
        Unit.HOUR,
        "2026-06-02T10:00:00",
        "2026-06-02T09:15",
        "2026-06-02T10:15",
        Resolution.FIVE_MINUTES,
    ),
    (
        "Australia/Lord_Howe",
        Unit.DAY,
        "2026-04-04T20:00",
        "2026-04-04T13:00",
        "2026-04-05T13:30",
        Resolution.FIVE_MINUTES,
    ),
    (
        "Australia/Lord_Howe",
        Unit.HOUR,
        "2026-04-04T15:10",
        "2026-04-04T15:00",
        "2026-04-04T15:30",
        Resolution.FIVE_MINUTES,
    ),
    # rules that changed: São Paulo gave up summer time in 2019, Samoa skipped 30 December 2011
    ("America/Sao_Paulo", Unit.DAY, "2018-12-15T12:00", "2018-12-15T02:00", "2018-12-16T02:00", Resolution.HOUR),
    ("America/Sao_Paulo", Unit.DAY, "2019-12-15T12:00", "2019-12-15T03:00", "2019-12-16T03:00", Resolution.HOUR),
    ("Pacific/Apia", Unit.DAY, "2011-12-30T09:59", "2011-12-29T10:00", "2011-12-30T10:00", Resolution.HOUR),
    ("Pacific/Apia", Unit.DAY, "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00", Resolution.HOUR),
    # the clock is moved at midnight, over midnight, and at 00:01
    ("America/Havana", Unit.DAY, "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00", Resolution.HOUR),
    ("Africa/Cairo", Unit.DAY, "2026-04-24T12:00", "2026-04-23T22:00", "2026-04-24T21:00", Resolution.HOUR),
    (
        "Antarctica/Casey",
        Unit.HOUR,
        "2020-10-03T16:04",
        "2020-10-03T16:00",
        "2020-10-03T16:05",
        Resolution.FIVE_MINUTES,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]} {case[1]} {case[2]}")
def test_a_moments_bucket_and_the_table_that_has_it(case):
    zone, unit, moment, start, end, table = case
    bucket = localtime.bucket(at(moment), unit, zone)
    assert bucket == Span(at(start), at(end))
    edges = localtime.edges(bucket, unit, zone)
    assert list(edges) == list(bucket)
    assert grid.table(edges) is table


@pytest.mark.parametrize(
    ("edges", "table"),
    [
        ([0], Resolution.DAY),
        ([0, 86_400], Resolution.DAY),
        ([0, 3_600, 86_400], Resolution.HOUR),
        ([0, 3_600, 5_400, 86_400], Resolution.FIVE_MINUTES),
        (range(0, 86_401, 300), Resolution.FIVE_MINUTES),
        ([300], Resolution.FIVE_MINUTES),
    ],
)
def test_the_coarsest_table_that_has_every_edge_answers(edges, table):
    assert grid.table(edges) is table


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars/Base",
        "asia/shanghai/",
        "/etc/passwd",
        "../UTC",
        "Europe",
        "zone.tab",
        "A" * 65,
        "UTC\n",
        "UTC\0",
        "Ütc",
    ],
)
def test_a_name_that_is_no_zone_is_an_error(name):
    with pytest.raises(BandmeterError) as caught:
        localtime.edges(Span(0, 0), Unit.DAY, name)
    assert caught.value.code == errors.PARAMETER_INVALID
    assert len(caught.value.sentence) < 200


@pytest.mark.parametrize(
    ("span", "unit"),
    [
        (Span(at("2026-06-01T22:00"), at("2026-06-02T21:00")), Unit.DAY),
        (Span(at("2026-06-02"), at("2026-06-02T22:00")), Unit.DAY),
        (Span(at("2026-06-01T22:30"), at("2026-06-01T23:00")), Unit.HOUR),
        (Span(300, 601), Unit.FIVE_MINUTES),
        (Span(301, 302), Unit.FIVE_MINUTES),
        (Span(-300, 300), Unit.FIVE_MINUTES),
        (Span(600, 300), Unit.FIVE_MINUTES),
        (Span(0, 2**62), Unit.FIVE_MINUTES),
        (Span(at("2026-06-01T22:00"), at("2026-07-01T22:00")), Unit.MONTH),
    ],
)
def test_a_span_beside_the_edges_is_an_error(span, unit):
    with pytest.raises(BandmeterError) as caught:
        localtime.edges(span, unit, "Europe/Berlin")
    assert caught.value.code == errors.PARAMETER_INVALID


@pytest.mark.parametrize(
    ("wall", "start", "end"),
    [
        ("2026-06-02 10:00", "2026-06-02T08:00", "2026-06-02T08:00"),
        ("2026-10-25 02:30", "2026-10-25T00:30", "2026-10-25T01:30"),  # shown twice
        ("2026-03-29 02:30", "2026-03-29T01:00", "2026-03-29T00:59:59"),  # skipped
    ],
)
def test_what_a_clock_shows_twice_or_never(wall, start, end):
    """As a start the first time, as an end the last; what is skipped is the moment of the skip, or just before."""
    read = dt.datetime.fromisoformat(wall)
    assert localtime.moment(read, "Europe/Berlin") == at(start)
    assert localtime.moment(read, "Europe/Berlin", is_end=True) == at(end)


def test_series_add_up_bucket_by_bucket():
    assert add_series([]) == ((), ())
    assert add_series([((1, 2), (3, 4))]) == ((1, 2), (3, 4))
    assert add_series([([1, 2], [3, 4]), ([1, 2], [5, 6])]) == ([1, 2], [8, 10])
    assert add_series([([2, 9], [3, 4]), ((), ()), ([1, 2], [5, 6])]) == ([1, 2, 9], [5, 9, 4])


@pytest.mark.parametrize("measure", Measure)
@pytest.mark.parametrize("where", [(), (("ip_version", "4"),), (("ip_version", "unknown"), ("network", "cdn"))])
def test_stores_agree_on_a_series(tmp_path, measure, where):
    """What SQLite sums is what the rows of the reference sum to; a number may be 0."""
    rows, chosen = array("q"), random.Random(7)
    for zone in (1, 2):
        for bucket in range(0, 9_000, 300):
            packed = usage.pack(ip_version=chosen.choice(["unknown", "4", "6"]), network=chosen.choice(["cdn", "dc"]))
            rows.extend([zone, bucket, packed, *(chosen.choice([0, 7, 2**40]) for _ in range(8))])
    found = []
    for store in (MemoryStore(), SqliteStore(tmp_path / "usage.db")):
        store.write(Batch(START, START, array("q", rows), {}, [], 1))
        selection = usage.select(measure, where)
        read = [
            store.read_series([1, 2, 3], side, resolution, Span(3_600, 7_200), selection)
            for side in Side
            for resolution in (Resolution.FIVE_MINUTES, Resolution.HOUR)
        ]
        pairs = [{zone: list(zip(*columns, strict=True)) for zone, columns in each.items()} for each in read]
        found.append([{zone: [p for p in each if p[1]] for zone, each in zones.items()} for zones in pairs])
        store.close()
    assert found[0] == found[1]
    assert any(found[0][0].values())
