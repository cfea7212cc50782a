"""Answers as tables: JSON, CSV, Parquet and Arrow, and which of them the caller wants."""

from __future__ import annotations

import csv
import datetime as dt
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from bandmeter.domain.contracts import Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.web.native.problems import FORMAT_UNAVAILABLE

JSON, CSV, PARQUET, ARROW = "json", "csv", "parquet", "arrow"
MEDIA_TYPES = {
    JSON: "application/json",
    CSV: "text/csv; charset=utf-8",
    PARQUET: "application/vnd.apache.parquet",
    ARROW: "application/vnd.apache.arrow.stream",
}
_BY_MEDIA_TYPE = {media_type.partition(";")[0]: name for name, media_type in MEDIA_TYPES.items()}
_BY_MEDIA_TYPE |= {"*/*": JSON, "application/*": JSON, "text/*": CSV}
_ACCEPT_LENGTH_MAX = 1_024  # characters; browsers send under 200


class Table(NamedTuple):
    """Rows in order. `columns`: name → "time" (Unix seconds), "text" or "number". `about`: what JSON says besides."""

    columns: dict[str, str]
    rows: Sequence[Sequence[Any]]
    timezone: str
    about: dict[str, Any]


def choose(accept: str) -> str:
    """The best form of an Accept header; raises `format_unavailable` when none of those can be had."""
    best, found = 0.0, ""
    for entry in accept[:_ACCEPT_LENGTH_MAX].lower().split(","):
        media_type, *options = (part.strip() for part in entry.split(";"))
        weight = _weight(options)
        if media_type in _BY_MEDIA_TYPE and weight > best:
            best, found = weight, _BY_MEDIA_TYPE[media_type]
    if not found and accept.strip():
        names = ", ".join(media_type.partition(";")[0] for media_type in MEDIA_TYPES.values())
        raise BandmeterError(FORMAT_UNAVAILABLE, f"Accept must allow one of {names}.")
    return found or JSON


def _weight(options: Sequence[str]) -> float:
    for option in options:
        if option.startswith("q="):
            try:
                return float(option[2:])
            except ValueError:
                return 0.0
    return 1.0


def render(table: Table, form: str, headers: dict[str, str]) -> Reply:
    """The table in one of the forms."""
    return Reply(_WRITERS[form](table), content_type=MEDIA_TYPES[form], headers=headers)


def show_time(second: int, timezone: str) -> str:
    """RFC 3339 by the clock of a time zone, `Z` for UTC."""
    if timezone == "UTC":
        return dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return dt.datetime.fromtimestamp(second, ZoneInfo(timezone)).isoformat()


def _shown(table: Table) -> list[list[Any]]:
    times = [n for n, kind in enumerate(table.columns.values()) if kind == "time"]
    rows = [list(row) for row in table.rows]
    for n in times:
        shown = {second: show_time(second, table.timezone) for second in {row[n] for row in rows}}
        for row in rows:
            row[n] = shown[row[n]]
    return rows


def _json(table: Table) -> bytes:
    rows = [dict(zip(table.columns, row, strict=True)) for row in _shown(table)]
    return msgspec.json.encode({"rows": rows, **table.about})


def _csv(table: Table) -> bytes:
    written = io.StringIO()
    writer = csv.writer(written)  # RFC 4180: lines end with CR LF
    writer.writerow(table.columns)
    writer.writerows(_shown(table))
    return written.getvalue().encode()


def _import_arrow() -> Any:
    # Heavy, and an extra that need not be there.
    try:
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        sentence = "This server has no pyarrow, which Parquet and Arrow need: ask for json or csv."
        raise BandmeterError(FORMAT_UNAVAILABLE, sentence) from error
    return pyarrow


def _arrow_table(pyarrow: Any, table: Table) -> Any:
    kinds = {
        "time": pyarrow.timestamp("s", tz=table.timezone),
        "text": pyarrow.string(),
        "number": pyarrow.int64(),
    }
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in table.columns.items()])
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
    return pyarrow.table(
        [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema
    )


def _parquet(table: Table) -> bytes:
    pyarrow = _import_arrow()
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(_arrow_table(pyarrow, table), sink, compression="zstd")
    return bytes(sink.getvalue())


def _arrow(table: Table) -> bytes:
    pyarrow = _import_arrow()
    sink, whole = pyarrow.BufferOutputStream(), _arrow_table(pyarrow, table)
    with pyarrow.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    return bytes(sink.getvalue())


_WRITERS: dict[str, Callable[[Table], bytes]] = {JSON: _json, CSV: _csv, PARQUET: _parquet, ARROW: _arrow}
