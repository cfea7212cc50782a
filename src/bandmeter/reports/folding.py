"""Rows of the store as the buckets of an answer: pure functions that `reports` is made of."""

from __future__ import annotations

import bisect
import functools
import itertools
import operator
from collections.abc import Iterable, Mapping, Sequence

from bandmeter.domain import errors, grid, localtime
from bandmeter.domain.contracts import POSTED, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span, Unit
from bandmeter.domain.questions import SPAN_SECONDS_MAX
from bandmeter.domain.usage import Columns, Counters

NO_ROWS = Columns()
Numbers = tuple[list[int], list[int]]


def gaps(coverage: Mapping[str, Sequence[tuple[int, int]]], span: Span) -> list[Span]:
    """When one of the sources did not report, between its first report and the last, within `span`; joined, in order.

    `coverage` as `Store.coverage` tells it. What lies behind a source's last report is not a gap yet.
    """
    found: list[Span] = []
    for stretches in coverage.values():
        for (_, end_ms), (start_ms, _) in itertools.pairwise(stretches):
            start, end = max(span.start, end_ms // 1000), min(span.end, -(-start_ms // 1000))
            if start < end:
                found.append(Span(start, end))
    joined: list[Span] = []
    for gap in sorted(found):
        if joined and gap.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, gap.end))
        else:
            joined.append(gap)
    return joined


def newest_ms(sources: Iterable[SourceState], *, is_followed: bool) -> int | None:
    """Time of the newest record of sources of one name; None without any.

    Of a followed one that of its files: whoever posts under its name makes what it logs no newer.
    """
    told = (source.newest_ms for source in sources if not (is_followed and source.head.startswith(POSTED)))
    return max((ms for ms in told if ms is not None), default=None)


def by_bucket(columns: Columns) -> dict[int, Counters]:
    """The sums of each bucket, over its dimensions; ascending."""
    sums: dict[int, list[int]] = {}
    for bucket, _, requests, successes, up, down in zip(*columns, strict=True):
        known = sums.get(bucket)
        if known is None:
            sums[bucket] = [requests, successes, up, down]
        else:  # in place: Counters.plus takes three times as long
            known[0] += requests
            known[1] += successes
            known[2] += up
            known[3] += down
    return {bucket: Counters._make(counters) for bucket, counters in sums.items()}


def edges(span: Span, unit: Unit, timezone: str) -> tuple[Sequence[int], Resolution]:
    """The edges of a question's buckets, and the table that can answer it."""
    check_length(span)
    edges = localtime.edges(span, unit, timezone)
    return edges, grid.table(edges)


def is_stored(edges: Sequence[int], resolution: Resolution) -> bool:
    """Whether the buckets between `edges` are the table's own."""
    return edges[-1] - edges[0] == (len(edges) - 1) * resolution


def regroup(columns: Columns, edges: Sequence[int]) -> Columns:
    """The table's rows added up to the buckets between `edges`."""
    starts = {bucket: edges[bisect.bisect_right(edges, bucket) - 1] for bucket in set(columns.bucket)}
    sums: dict[tuple[int, int], list[int]] = {}
    for bucket, dimensions, *counters in zip(*columns, strict=True):
        key = (starts[bucket], dimensions)
        known = sums.get(key)
        sums[key] = counters if known is None else list(map(operator.add, known, counters))
    return Columns._make(zip(*((*key, *sums[key]) for key in sorted(sums)), strict=True)) if sums else NO_ROWS


def fold(buckets: list[int], values: list[int], edges: Sequence[int]) -> Numbers:
    """One value for each bucket between `edges`."""
    starts = {bucket: edges[bisect.bisect_right(edges, bucket) - 1] for bucket in set(buckets)}
    return add_up([starts[bucket] for bucket in buckets], values)


def merge(found: dict[int, Numbers]) -> dict[int, Numbers]:
    """Each bucket once. Zones may share a list of buckets, which is looked at once."""
    lists = {id(buckets): buckets for buckets, _ in found.values()}
    grids = {key: _grid(buckets) for key, buckets in lists.items()}
    merged = {}
    for number, (buckets, values) in found.items():
        once = grids[id(buckets)]
        if once is None:
            merged[number] = add_up(buckets, values)
        elif len(once) == len(buckets):
            merged[number] = (buckets, values)
        else:
            width = len(buckets) // len(once)
            columns = (values[place::width] for place in range(width))
            merged[number] = (once, functools.reduce(lambda a, b: list(map(operator.add, a, b)), columns))
    return merged


def _grid(buckets: list[int]) -> list[int] | None:
    """Each of the (ascending) buckets once, when each stands there equally often, as in busy zones; else None."""
    width = len(buckets) // len(set(buckets))
    once = buckets[::width]
    return once if once == buckets[width - 1 :: width] and len(set(once)) == len(once) else None


def add_up(buckets: list[int], values: list[int]) -> Numbers:
    """Each bucket once."""
    sums: dict[int, int] = {}
    for bucket, value in zip(buckets, values, strict=True):
        sums[bucket] = sums.get(bucket, 0) + value
    return list(sums), list(sums.values())


def check_length(span: Span) -> None:
    """Raise `parameter_invalid` for a span that is too long."""
    if span.start > span.end:
        raise BandmeterError(errors.PARAMETER_INVALID, "The period ends before it starts.")
    if span.end - span.start > SPAN_SECONDS_MAX:
        days = SPAN_SECONDS_MAX // Resolution.DAY
        raise BandmeterError(errors.PARAMETER_INVALID, f"The period is longer than {days} days.")


def check_span(span: Span, resolution: Resolution) -> None:
    """Raise `parameter_invalid` for a span that is too long, or not on the edges of `resolution`."""
    check_length(span)
    if not span.is_aligned(resolution):
        raise BandmeterError(
            errors.PARAMETER_INVALID,
            f"The period must start and end on an edge of {int(resolution)} seconds, UTC.",
        )
