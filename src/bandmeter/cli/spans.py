"""The `--from` and `--to` of the commands that answer questions."""

from __future__ import annotations

from typing import Annotated

import typer

from bandmeter import service
from bandmeter.cli.session import read_time
from bandmeter.domain import errors, grid
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import SPAN_SECONDS_MAX

From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", help="Start, inside; by default the first of the month before the one of the end."
    ),
]
To = Annotated[str | None, typer.Option("--to", metavar="TIME", help="End, outside; tomorrow 00:00 UTC by default.")]


def read_span(start: str | None, end: str | None, edges: Resolution) -> Span:
    """The span asked for, its start cut down and its end up to the edges, so that no asked-for traffic is left out."""
    now_s = service.clock_s()
    first, last = read_time(start, "--from"), read_time(end, "--to", is_end=True)
    end_s = grid.day_start(now_s) + Resolution.DAY if last is None else grid.ceil_to(last, edges)
    start_s = grid.month_start(max(min(now_s, end_s - 1), 0), -1) if first is None else grid.floor_to(first, edges)
    span = Span(start_s, end_s)
    if span.start > span.end:
        shown = f"{grid.format_time(span.start)} to {grid.format_time(span.end)}"
        mend = "exchange --from and --to" if end else "it ends tomorrow 00:00 UTC unless --to says otherwise"
        raise BandmeterError(errors.INPUT_INVALID, f"The period {shown} ends before it starts: {mend}.")
    if span.start == span.end:
        sentence = f"The period from {grid.format_time(span.start)} is empty: --to is outside it, so name a later time."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    if span.end - span.start > SPAN_SECONDS_MAX:
        sentence = f"The period is longer than {SPAN_SECONDS_MAX // Resolution.DAY} days: ask for parts of it."
        raise BandmeterError(errors.INPUT_INVALID, sentence)
    return span
