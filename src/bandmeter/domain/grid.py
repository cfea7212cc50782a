"""Time: buckets, spans and calendar edges, in UTC.

Law 4: a bucket is decided by when the traffic happened. Spans are half-open, `start` inside and `end` outside,
in Unix seconds, UTC. Calendar edges are computed with the calendar, never by multiplying days. What the clocks of
other time zones make of hours, days and months stands in `localtime.py`.
"""

from __future__ import annotations

import datetime as dt
import enum
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Resolution(enum.IntEnum):
    """The length of a bucket that the store keeps, in seconds."""

    FIVE_MINUTES = 300
    HOUR = 3_600
    DAY = 86_400


class Unit(enum.StrEnum):
    """The length of a bucket of an answer, by the clock of a time zone: a day has 23 to 25 hours."""

    FIVE_MINUTES = "5m"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"


UNITS = {Resolution.FIVE_MINUTES: Unit.FIVE_MINUTES, Resolution.HOUR: Unit.HOUR, Resolution.DAY: Unit.DAY}


class Span(NamedTuple):
    """A half-open stretch of time [start, end), Unix seconds."""

    start: int
    end: int

    def is_aligned(self, resolution: Resolution) -> bool:
        """Whether both ends are edges of `resolution`'s UTC buckets."""
        return self.start % resolution == 0 and self.end % resolution == 0

    def holds(self, second: int) -> bool:
        """Whether `second` lies inside."""
        return self.start <= second < self.end


def floor_to(second: int, resolution: Resolution) -> int:
    """The start of the bucket that holds `second`."""
    return second - second % resolution


def ceil_to(second: int, resolution: Resolution) -> int:
    """The first edge of `resolution` that is not before `second`."""
    return -(-second // resolution) * resolution


def day_start(second: int) -> int:
    """00:00 UTC of the day that holds `second`."""
    return floor_to(second, Resolution.DAY)


def month_start(second: int, months_later: int = 0) -> int:
    """00:00 UTC on the first of the month that holds `second`, or of a month `months_later` away (negative: before)."""
    day = dt.datetime.fromtimestamp(second, dt.UTC)
    index = day.year * 12 + day.month - 1 + months_later
    return int(dt.datetime(index // 12, index % 12 + 1, 1, tzinfo=dt.UTC).timestamp())


def month_span(second: int, months_later: int = 0) -> Span:
    """The whole calendar month of `month_start`."""
    return Span(month_start(second, months_later), month_start(second, months_later + 1))


def months_in(span: Span) -> Iterator[Span]:
    """The calendar months that `span` touches, each cut to `span`, in order."""
    start = span.start
    while start < span.end:
        end = min(month_start(start, 1), span.end)
        yield Span(start, end)
        start = end


def month_name(second: int) -> str:
    """`YYYY-MM` of the month that holds `second`."""
    return dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m")


def table(edges: Iterable[int]) -> Resolution:
    """The coarsest resolution whose UTC buckets can be added up to the buckets between `edges` (on 5 minutes)."""
    coarse = [r for r in (Resolution.DAY, Resolution.HOUR) if all(edge % r == 0 for edge in edges)]
    return coarse[0] if coarse else Resolution.FIVE_MINUTES


def pieces(span: Span) -> list[tuple[Resolution, Span]]:
    """Cut `span` into the fewest pieces that the store's tables answer exactly, coarsest in the middle.

    `span` must lie on 5-minute edges. The pieces are disjoint, in order, and cover it.
    """
    if not span.is_aligned(Resolution.FIVE_MINUTES):
        msg = f"a span must lie on 5-minute edges: {span}"
        raise ValueError(msg)
    return _pieces(span, (Resolution.DAY, Resolution.HOUR, Resolution.FIVE_MINUTES))


def _pieces(span: Span, resolutions: tuple[Resolution, ...]) -> list[tuple[Resolution, Span]]:
    if span.start >= span.end:
        return []
    resolution, finer = resolutions[0], resolutions[1:]
    middle = Span(ceil_to(span.start, resolution), floor_to(span.end, resolution))
    if middle.start >= middle.end:
        return _pieces(span, finer)
    return [
        *_pieces(Span(span.start, middle.start), finer),
        (resolution, middle),
        *_pieces(Span(middle.end, span.end), finer),
    ]


def parse_time(text: str, *, is_end: bool = False) -> int:
    """Unix seconds of an ISO 8601 date or time, UTC without an offset; ValueError if it is none.

    A fraction is cut, of an end widened.
    """
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    second = math.floor(moment.timestamp())
    return second + 1 if is_end and moment.microsecond else second


def format_time(second: int) -> str:
    """ISO 8601 in UTC with `Z`, to the second."""
    return dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
