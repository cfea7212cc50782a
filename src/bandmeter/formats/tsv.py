"""The generic table: tab-separated, a header line (or `--columns`) names the columns, in any order.

Columns have the names of the record (docs/records.md); columns that it does not know are ignored. Four more are
understood: `duration_ms`; `target_ip`, whose form gives `ip_version`, and whose `-` says that no target was reached;
and `method`, which gives `scheme` where no such column is.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from bandmeter.domain.contracts import Format, Layout
from bandmeter.formats.jsonl import RECORD, RECORD_FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTRA = ("duration_ms", "target_ip", "method")

TSV = Format(
    name="tsv",
    split="tab",
    nulls=("", "-"),
    has_header=True,
    example="time	identity	host	status	bytes_up	bytes_down",
    layouts=(Layout(columns=RECORD, fields=RECORD_FIELDS),),
)


def with_columns(names: Sequence[str]) -> Format:
    """The format of a table with these columns, in this order."""
    columns = tuple(name if name in (*RECORD, *EXTRA) else f"ignored_{i}" for i, name in enumerate(names))
    fields = {field: expression for field, expression in RECORD_FIELDS.items() if field.removesuffix("_ms") in columns}
    if "duration_ms" in columns:
        fields.setdefault("duration_ms", "CASE WHEN duration_ms IS NULL THEN 0 ELSE whole(duration_ms) END")
    fields |= _pairs(columns)
    if "target_ip" in columns:
        fields["reached_target"] = "target_ip IS NOT NULL"
        fields.setdefault("ip_version", "ip_version_of(target_ip)")
    if "method" in columns:
        fields.setdefault("scheme", "CASE WHEN method = 'CONNECT' THEN 'https' ELSE 'http' END")
    return dataclasses.replace(TSV, has_header=False, layouts=(Layout(columns=columns, fields=fields),))


def _pairs(columns: Sequence[str]) -> dict[str, str]:
    """Which pairs of bytes a line has, where that may differ from line to line; half a pair lacks the other half."""
    pairs = {f"has_{pair}": (f"{pair}_up", f"{pair}_down") for pair in ("bytes", "target_bytes", "client_bytes")}
    there = {has: [side for side in pair if side in columns] for has, pair in pairs.items()}
    there = {has: sides for has, sides in there.items() if sides}
    fields = {has: " OR ".join(f"{side} IS NOT NULL" for side in sides) for has, sides in there.items()}
    halves = {side: "CAST(NULL AS BIGINT)" for has in there for side in pairs[has] if side not in columns}
    return halves | (fields if len(there) > 1 else {})
