"""`usage`: what was carried."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any

import typer

from bandmeter.cli import output
from bandmeter.cli.session import Json, Target, need_target, opened
from bandmeter.cli.spans import From, To, read_span
from bandmeter.domain import errors, grid
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import TargetsQuestion, UsageAnswer, UsageQuestion, ZonesQuestion
from bandmeter.domain.usage import DIMENSIONS, Side
from bandmeter.reports import Reports

HOST = "host"
GROUPS = ("account", "zone", HOST, *DIMENSIONS)
COUNTERS = ("requests", "bytes_up", "bytes_down")


class Grain(enum.StrEnum):
    """How long the buckets of an answer are."""

    FIVE_MINUTES = "5m"
    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


class Output(enum.StrEnum):
    """How an answer is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


EDGES = {Grain.FIVE_MINUTES: Resolution.FIVE_MINUTES, Grain.HOUR: Resolution.HOUR}  # the others have days' edges


def usage(
    context: typer.Context,
    target: Target,
    *,
    start: From = None,
    end: To = None,
    resolution: Annotated[Grain, typer.Option(help="The length of a bucket, UTC.")] = Grain.DAY,
    group_by: Annotated[str, typer.Option(help=f"Comma-separated, of {', '.join(GROUPS)}.")] = "",
    side: Annotated[Side | None, typer.Option(help="Whose exchange; what each zone bills, when not given.")] = None,
    form: Annotated[Output, typer.Option("--output", help="How to print it.")] = Output.TABLE,
    as_json: Json = False,
) -> None:
    """Requests and bytes, by bucket; buckets without traffic are left out.

    --from and --to widen to whole buckets: 5 minutes, hours, or days, of which months and the total are made.
    By host, what is not kept by host stands under `other`, so that days add up.
    """
    if as_json and form is Output.CSV:
        raise BandmeterError(errors.INPUT_INVALID, "--json and --output csv are two forms: give one of them.")
    groups = _read_groups(group_by, resolution)
    edges = EDGES.get(resolution, Resolution.DAY)
    span = read_span(start, end, edges)
    with opened(context) as parts:
        account, zones = need_target(parts, target)
        if HOST in groups:
            lines = _by_host(parts.reports, ZonesQuestion(account, zones), span, side, groups)
        else:
            lines = _by_dimension(parts.reports.answer(UsageQuestion(account, span, zones, edges, side)), groups)
        rows = _fold(lines, _bucket_of(resolution, span))
    columns = ("bucket", *groups, *COUNTERS)
    if as_json or form is Output.JSON:
        output.print_json({"rows": [dict(zip(columns, row, strict=True)) for row in rows]})
    elif form is Output.CSV:
        output.print_csv(columns, rows)
    else:
        _print_table(columns, rows, len(groups))


def _read_groups(text: str, grain: Grain) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in GROUPS:
            sentence = f"--group-by does not know {name[:80]!r}: it takes {', '.join(GROUPS)}."
            raise BandmeterError(errors.INPUT_INVALID, sentence)
    if HOST in names:
        _check_hosts(names, grain)
    return names


def _check_hosts(names: Iterable[str], grain: Grain) -> None:
    if grain in EDGES:
        sentence = (
            f"--group-by host cannot be had by {grain}: hosts are kept by day. Take --resolution day, month or total."
        )
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    for name in names:
        if name in DIMENSIONS:
            sentence = f"--group-by cannot take host together with {name}: hosts are kept without it."
            raise BandmeterError(errors.INPUT_INVALID, sentence)


def _bucket_of(grain: Grain, span: Span) -> Callable[[int], int]:
    if grain is Grain.MONTH:
        return lambda second: max(grid.month_start(second), span.start)
    if grain is Grain.TOTAL:
        return lambda _: span.start
    return lambda second: second


# (start of the bucket, values of --group-by, requests, bytes up, bytes down)
_Line = tuple[int, tuple[str, ...], int, int, int]


def _by_dimension(answer: UsageAnswer, groups: tuple[str, ...]) -> Iterator[_Line]:
    for zone, columns in answer.zones:
        own = {"account": zone.account, "zone": zone.name}
        for row in columns.rows:
            values = (own[name] if name in own else DIMENSIONS[name].value(row.dimensions) for name in groups)
            yield row.bucket, tuple(values), row.requests, row.bytes_up, row.bytes_down


def _by_host(
    reports: Reports, asked: ZonesQuestion, span: Span, side: Side | None, groups: tuple[str, ...]
) -> Iterator[_Line]:
    """A zone after the other: so an account may have as many as it likes."""
    for zone in reports.answer(asked):
        own = {"account": zone.account, "zone": zone.name}
        for _, rows in reports.answer(TargetsQuestion(zone.account, span, (zone.name,), side)).zones:
            for row in rows:
                values = tuple(own.get(name, row.host) for name in groups)
                yield row.day, values, row.requests, row.bytes_up, row.bytes_down


def _fold(lines: Iterable[_Line], bucket_of: Callable[[int], int]) -> list[tuple[Any, ...]]:
    """Rows (bucket, groups…, requests, bytes_up, bytes_down), ordered."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    buckets: dict[int, int] = {}
    for second, values, requests, up, down in lines:
        if second not in buckets:
            buckets[second] = bucket_of(second)
        total = sums.setdefault((buckets[second], *values), [0, 0, 0])
        total[0] += requests
        total[1] += up
        total[2] += down
    return [(grid.format_time(key[0]), *key[1:], *sums[key]) for key in sorted(sums)]


def _print_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]], groups: int) -> None:
    requests, up, down = (sum(row[n] for row in rows) for n in (-3, -2, -1))
    lines = [(*row, row[-2] + row[-1], output.human(row[-2] + row[-1])) for row in rows]
    total = ("total", *[""] * groups, requests, up, down, up + down, output.human(up + down))
    output.print_table((*columns, "bytes", ""), lines, total)
