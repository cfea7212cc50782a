"""Buckets, spans and calendar edges."""

from __future__ import annotations

import datetime as dt
import itertools
import random

import pytest

from bandmeter.domain import grid
from bandmeter.domain.grid import Resolution, Span

R = Resolution


def at(text):
    return int(dt.datetime.fromisoformat(text + "+00:00").timestamp())


@pytest.mark.parametrize(
    ("second", "resolution", "floor", "ceil"),
    [
        (0, R.DAY, 0, 0),
        (299, R.FIVE_MINUTES, 0, 300),
        (300, R.FIVE_MINUTES, 300, 300),
        (-1, R.HOUR, -3600, 0),
        (3601, R.HOUR, 3600, 7200),
    ],
)
def test_edges(second, resolution, floor, ceil):
    assert (grid.floor_to(second, resolution), grid.ceil_to(second, resolution)) == (floor, ceil)


def test_spans_are_half_open():
    span = Span(300, 600)
    assert [span.holds(s) for s in (299, 300, 599, 600)] == [False, True, True, False]
    assert span.is_aligned(R.FIVE_MINUTES)
    assert not span.is_aligned(R.HOUR)


@pytest.mark.parametrize(
    ("day", "later", "start"),
    [
        ("2026-11-20", 0, "2026-11-01"),
        ("2026-12-31T23:59:59", 1, "2027-01-01"),
        ("2026-01-01", -1, "2025-12-01"),
        ("2024-02-29", 12, "2025-02-01"),
        ("2026-03-31", -1, "2026-02-01"),
        ("2026-03-31", -13, "2025-02-01"),
    ],
)
def test_months_are_of_the_calendar(day, later, start):
    """Never so many days."""
    assert grid.month_start(at(day), later) == at(start)
    assert grid.month_span(at(day), later).start == at(start)


def test_the_months_of_a_span_cover_it():
    span = Span(at("2025-11-15T10:00"), at("2026-03-01T00:05"))
    months = list(grid.months_in(span))
    assert [grid.month_name(m.start) for m in months] == ["2025-11", "2025-12", "2026-01", "2026-02", "2026-03"]
    assert (months[0].start, months[-1].end) == span
    assert all(a.end == b.start for a, b in itertools.pairwise(months))
    assert list(grid.months_in(Span(5, 5))) == []


def test_pieces_cover_a_span_exactly_with_the_coarsest_in_the_middle():
    draw = random.Random(1)
    for _ in range(500):
        start = draw.randrange(5000) * 300
        span = Span(start, start + draw.choice([0, 1, 12, 13, 288, 289, 2000]) * 300 + draw.randrange(40) * 300)
        pieces = grid.pieces(span)
        edges = [span.start, *(piece.end for _, piece in pieces)]
        assert [piece.start for _, piece in pieces] == edges[:-1]
        assert edges[-1] == max(span)
        assert all(piece.is_aligned(resolution) and piece.start < piece.end for resolution, piece in pieces)
        buckets = sum((piece.end - piece.start) // resolution for resolution, piece in pieces)
        assert buckets <= 2 * (11 + 23) + (span.end - span.start) // 86_400
        assert len(pieces) <= 5


def test_pieces_of_an_uneven_span_are_refused():
    with pytest.raises(ValueError, match="5-minute"):
        grid.pieces(Span(0, 301))


@pytest.mark.parametrize(
    ("text", "second"),
    [
        ("2026-11-20", "2026-11-20"),
        ("2026-11-20T10:00:00Z", "2026-11-20T10:00:00"),
        ("2026-11-20T10:00:00.999999", "2026-11-20T10:00:00"),
        ("2026-11-20T10:00:00+05:45", "2026-11-20T04:15:00"),
        ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59"),
    ],
)
def test_times_are_read_in_utc_and_cut(text, second):
    assert grid.parse_time(text) == at(second)
    assert grid.format_time(at(second)) == (second if "T" in second else second + "T00:00:00") + "Z"


def test_the_coarsest_table_for_some_edges():
    assert grid.table([0, 86_400]) is R.DAY
    assert grid.table([0, 3_600, 86_400]) is R.HOUR
    assert grid.table([0, 300]) is R.FIVE_MINUTES
