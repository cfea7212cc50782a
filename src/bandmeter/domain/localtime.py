"""Hours, days and months by the clock of an IANA time zone, as exact moments (Unix seconds).

A day is from one midnight to the next, whatever the clock does between: 23, 24 or 25 hours, seldom something else; a
day that a zone skipped has no bucket. An hour is a stretch during which the clock's hour and its distance from UTC stay
the same: an hour that the clock repeats is two buckets, one that it skips is none, and where the clock moves by half an
hour there is a bucket of half an hour. Five minutes are UTC's, and never cut: where a clock was moved at 00:01, or
stood beside whole minutes as some did before 1973, a bucket starts with the first five minutes that begin in it.
"""

from __future__ import annotations

import bisect
import datetime as dt
import re
import zoneinfo
from collections.abc import Iterator, Sequence
from itertools import pairwise

from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span, Unit

UTC = "UTC"
NAME_LENGTH_MAX = 64  # characters; the longest name that IANA ever gave has 32
MOMENT_MAX = 32_503_680_000  # 3000-01-01: far enough from the calendar's end that no edge can leave it
# Files beside the zones': this machine's zone, two that are none, and copies of all with other counts of seconds.
_NO_ZONES = re.compile(r"(?:localtime|posixrules|Factory|(?:posix|right)/.*)")
_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")
_STEP = int(Resolution.FIVE_MINUTES)
_DAY = int(Resolution.DAY)
_HOUR = int(Resolution.HOUR)
_ONE_DAY = dt.timedelta(days=1)


def is_timezone(name: str) -> bool:
    """Whether there is a time zone of that name."""
    if len(name) > NAME_LENGTH_MAX or not _NAME.fullmatch(name) or _NO_ZONES.fullmatch(name):
        return False
    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):  # none, or a folder or a list among the zones' files
        return False
    return True


def timezone(name: str) -> zoneinfo.ZoneInfo:
    """The rules of a time zone; raises `parameter_invalid`."""
    if not is_timezone(name):
        sentence = f"There is no time zone {name[:NAME_LENGTH_MAX]!r}: name one such as Asia/Shanghai or UTC."
        raise BandmeterError(errors.PARAMETER_INVALID, sentence)
    return zoneinfo.ZoneInfo(name)


# ---------------------------------------------------------------- moments


def moment(wall: dt.datetime, name: str, *, is_end: bool = False) -> int:
    """When the zone's clock shows `wall` (without a zone), a fraction cut.

    What it shows twice is the first time, for an end the last. What it skips is the moment of the skip, for an end the
    second before: a stretch between two skipped times is empty.
    """
    return _moment(wall, timezone(name), is_end=is_end)


def _moment(wall: dt.datetime, zone: zoneinfo.ZoneInfo, *, is_end: bool = False) -> int:
    first, last = (int(wall.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1))
    if first <= last:
        return last if is_end else first
    # Skipped: read with the offset of before, `first` lies after the skip; with the one of after, `last` lies before.
    before = _offset(last, zone)
    skip = last + bisect.bisect_left(range(last, first), 1, key=lambda second: _offset(second, zone) != before)
    return skip - 1 if is_end else skip


def _offset(second: int, zone: zoneinfo.ZoneInfo) -> dt.timedelta | None:
    return dt.datetime.fromtimestamp(second, zone).utcoffset()


# ---------------------------------------------------------------- edges


def edges(span: Span, unit: Unit, name: str) -> Sequence[int]:
    """Where the buckets of `span` start, ascending, and where the last one ends: at least one number.

    Raises `parameter_invalid` for a zone that is none, and a span whose ends are no edges.
    """
    zone = timezone(name)
    if not 0 <= span.start <= span.end <= MOMENT_MAX:
        raise BandmeterError(errors.PARAMETER_INVALID, "The period must lie between 1970 and 2999.")
    if unit is Unit.FIVE_MINUTES:
        first = -(-span.start // _STEP) * _STEP
        found: Sequence[int] = range(first, span.end + 1, _STEP)
    else:
        found = _from(span, unit, zone)
    if not found or found[0] != span.start or found[-1] != span.end:
        sentence = f"The period must start and end on an edge of {unit} in {name}."
        raise BandmeterError(errors.PARAMETER_INVALID, sentence)
    return found


def bucket(second: int, unit: Unit, name: str) -> Span:
    """The bucket that holds `second`."""
    if unit is Unit.FIVE_MINUTES:
        return Span(second - second % _STEP, second - second % _STEP + _STEP)
    start, *_, end = _from(Span(second, second + 1), unit, timezone(name))
    return Span(start, end)


def _from(span: Span, unit: Unit, zone: zoneinfo.ZoneInfo) -> list[int]:
    """The start of the bucket that holds `span.start`, and every edge up to the first that is not before its end."""
    found: list[int] = []
    for edge in _edges_from(span.start, unit, zone):
        if edge <= span.start:
            found = [edge]
        elif edge != found[-1]:  # which it is where a day was skipped
            found.append(edge)
        if edge >= span.end:
            break
    return found


def _edges_from(second: int, unit: Unit, zone: zoneinfo.ZoneInfo) -> Iterator[int]:
    """Edges without end, beginning with one that is not after `second`; a skipped day's comes twice."""
    if unit is Unit.MONTH:
        return _months_from(second, zone)
    return _days_from(second, zone) if unit is Unit.DAY else _hours_from(second, zone)


def _months_from(second: int, zone: zoneinfo.ZoneInfo) -> Iterator[int]:
    day = dt.datetime.fromtimestamp(second, zone)
    index = day.year * 12 + day.month - 2  # begins a month before
    while True:
        yield _edge(dt.datetime(index // 12, index % 12 + 1, 1), zone)  # noqa: DTZ001 - what the clock shows
        index += 1


def _days_from(second: int, zone: zoneinfo.ZoneInfo) -> Iterator[int]:
    day = dt.datetime.fromtimestamp(second, zone).date() - _ONE_DAY
    while True:
        yield _edge(dt.datetime(day.year, day.month, day.day), zone)  # noqa: DTZ001 - what the clock shows
        day += _ONE_DAY


def _edge(wall: dt.datetime, zone: zoneinfo.ZoneInfo) -> int:
    return -(-_moment(wall, zone) // _STEP) * _STEP


def _hours_from(second: int, zone: zoneinfo.ZoneInfo) -> Iterator[int]:
    for start, end in pairwise(_days_from(second, zone)):
        if end - start == _DAY and _offset(start, zone) == _offset(end, zone):
            yield from range(start, end, _HOUR)
        else:
            yield from _changes(start, end, zone)


def _changes(start: int, end: int, zone: zoneinfo.ZoneInfo) -> Iterator[int]:
    """Where the hour or the distance from UTC changes, on a day on which the clock is moved."""
    shown = None
    for second in range(start, end, _STEP):
        local = dt.datetime.fromtimestamp(second, zone)
        now = (local.hour, local.utcoffset())
        if now != shown:
            yield second
        shown = now
