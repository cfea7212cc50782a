"""`usage`: what was carried."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from bandmeter.cli import output
from bandmeter.cli.session import Target, need_target, opened
from bandmeter.cli.spans import From, To, read_span
from bandmeter.domain import errors, grid
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import UsageAnswer, UsageQuestion
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import DIMENSIONS, Row, Side

GROUPS = ("account", "zone", *DIMENSIONS)
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
) -> None:
    """Requests and bytes, by bucket; buckets without traffic are left out.

    --from and --to widen to whole buckets: 5 minutes, hours, or days, of which months and the total are made.
    """
    groups = _read_groups(group_by)
    edges = EDGES.get(resolution, Resolution.DAY)
    span = read_span(start, end, edges)
    with opened(context) as parts:
        account, zones = need_target(parts, target)
        answer = parts.reports.answer(UsageQuestion(account, span, zones, edges, side))
    rows = _fold(answer, groups, _bucket_of(resolution, span))
    columns = ("bucket", *groups, *COUNTERS)
    if form is Output.JSON:
        output.print_json({"rows": [dict(zip(columns, row, strict=True)) for row in rows]})
    elif form is Output.CSV:
        output.print_csv(columns, rows)
    else:
        _print_table(columns, rows, len(groups))


def _read_groups(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in GROUPS:
            sentence = f"--group-by does not know {name[:80]!r}: it takes {', '.join(GROUPS)}."
            raise BandmeterError(errors.INPUT_INVALID, sentence)
    return names


def _bucket_of(grain: Grain, span: Span) -> Callable[[int], int]:
    if grain is Grain.MONTH:
        return lambda second: max(grid.month_start(second), span.start)
    if grain is Grain.TOTAL:
        return lambda _: span.start
    return lambda second: second


def _fold(answer: UsageAnswer, groups: tuple[str, ...], bucket_of: Callable[[int], int]) -> list[tuple[Any, ...]]:
    """Rows (bucket, groups…, requests, bytes_up, bytes_down), ordered."""
    sums: dict[tuple[Any, ...], list[int]] = {}
    buckets: dict[int, int] = {}
    for used in answer.zones:
        zone = used.zone
        for row in used.rows:
            if row.bucket not in buckets:
                buckets[row.bucket] = bucket_of(row.bucket)
            key = (buckets[row.bucket], *_values(zone, row, groups))
            total = sums.setdefault(key, [0, 0, 0])
            total[0] += row.requests
            total[1] += row.bytes_up
            total[2] += row.bytes_down
    return [(grid.format_time(key[0]), *key[1:], *sums[key]) for key in sorted(sums)]


def _values(zone: Zone, row: Row, groups: Iterable[str]) -> list[str]:
    own = {"account": zone.account, "zone": zone.name}
    return [own[name] if name in own else DIMENSIONS[name].value(row.dimensions) for name in groups]


def _print_table(columns: tuple[str, ...], rows: list[tuple[Any, ...]], groups: int) -> None:
    requests, up, down = (sum(row[n] for row in rows) for n in (-3, -2, -1))
    lines = [(*row, row[-2] + row[-1], output.human(row[-2] + row[-1])) for row in rows]
    total = ("total", *[""] * groups, requests, up, down, up + down, output.human(up + down))
    output.print_table((*columns, "bytes", ""), lines, total)
