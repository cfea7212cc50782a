"""How answers look: tables for people, JSON and CSV for scripts."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from bandmeter.domain import grid

PIPE_WIDTH = 240  # columns where there is no terminal: nothing of ours is longer, so nothing is wrapped
UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
KILO = 1_000  # decimal units, as on the bill


def say(sentence: str) -> None:
    """A line on standard output."""
    sys.stdout.write(sentence + "\n")


def complain(sentence: str) -> None:
    """One line on standard error, as plain text, behind what was printed so far."""
    sys.stdout.flush()
    sys.stderr.write(sentence + "\n")


def print_json(value: Any) -> None:
    """JSON on standard output, on one line."""
    say(json.dumps(value, ensure_ascii=False))


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """CSV with a header, lines ended by a newline only."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], total: Sequence[Any] | None = None) -> None:
    """A table; numbers to the right, the total under a line."""
    lines = [[_cell(value) for value in row] for row in rows]
    kinds = total or ()
    table = Table(box=None, show_footer=total is not None, pad_edge=False, header_style="bold", footer_style="bold")
    for n, column in enumerate(columns):
        is_number = bool(lines) and all(_is_number(line[n]) for line in lines)
        foot = _cell(kinds[n]) if n < len(kinds) else ""
        table.add_column(column, foot, justify="right" if is_number else "left", overflow="fold")
    for line in lines:
        table.add_row(*line)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else PIPE_WIDTH
    Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False).print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(value) if isinstance(value, tuple) else str(value)
    return "".join(c if c.isprintable() else "?" for c in text)  # a log line may hold a terminal's commands


def _is_number(text: str) -> bool:
    head = text.partition(" ")[0].replace(",", "").replace(".", "")
    return head.removeprefix("-").isdigit() or text == "-"


def human(count: int) -> str:
    """Bytes for a reader: `745 B`, `1.61 GB`. Exact figures stand beside it."""
    unit = 0
    while (hundredths := _hundredths(count, KILO**unit)) >= 100 * KILO and unit < len(UNITS) - 1:
        unit += 1
    return f"{count} B" if unit == 0 else f"{hundredths // 100}.{hundredths % 100:02} {UNITS[unit]}"


def _hundredths(count: int, size: int) -> int:
    """Half up, as all that we round."""
    return (200 * count + size) // (2 * size)


def count(number: int, one: str, many: str = "") -> str:
    """`1 request`, `2 requests`; `many` where an s does not make the plural."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def time(second: int | None) -> str | None:
    """ISO 8601, or None."""
    return None if second is None else grid.format_time(second)


def time_of_ms(ms: int | None) -> str | None:
    """ISO 8601 with milliseconds, or None."""
    return None if ms is None else f"{grid.format_time(ms // 1_000)[:-1]}.{ms % 1_000:03}Z"


def records(rows: Iterable[Mapping[str, Any]], name: str, columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows as `{"<name>": [...]}` or, of each, the columns as a table."""
    if as_json:
        print_json({name: list(rows)})
    else:
        print_table(columns, [[row[column] for column in columns] for row in rows])
