"""The generic table: tab-separated, a header line (or `--columns`) names the columns, in any order.

Columns have the names of the record (docs/records.md); columns that it does not know are ignored. Four more are
understood: `duration_ms`; `target_ip`, whose form gives `ip_version`, and whose `-` says that no target was reached;
and `method`, which gives `scheme` where no such column is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bandmeter.domain.contracts import Format, Layout
from bandmeter.formats.jsonl import RECORD, RECORD_FIELDS

if TYPE_CHECKING:
    from collections.abc import Sequence

EXTRA = ("duration_ms", "target_ip", "method")

TSV = Format(
    name="tsv",
    split="tab",
    has_header=True,
    example="time	identity	host	status	bytes_up	bytes_down",
    layouts=(Layout(columns=RECORD, fields=RECORD_FIELDS),),
)


def with_columns(names: Sequence[str]) -> Format:
    """The format of a table with these columns, in this order."""
    columns = tuple(name if name in (*RECORD, *EXTRA) else f"ignored_{i}" for i, name in enumerate(names))
    fields = {}
    for field, expression in RECORD_FIELDS.items():
        column = "time" if field == "time_ms" else field
        if column in columns:
            # an empty cell, or one with '-', is a field that was left out
            fields[field] = expression if column == "time" else expression.replace(column, f"given({column})")
    for pair in ("bytes", "target_bytes", "client_bytes"):
        present = [f"given({side}) IS NOT NULL" for side in (f"{pair}_up", f"{pair}_down") if side in columns]
        if present:
            fields[f"has_{pair}"] = " OR ".join(present)
            fields |= {side: "NULL" for side in (f"{pair}_up", f"{pair}_down") if side not in columns}
    if "target_ip" in columns:
        fields["reached_target"] = "target_ip <> '-'"
        fields.setdefault("ip_version", "ip_version_of(target_ip)")
    if "method" in columns:
        fields.setdefault("scheme", "CASE WHEN method = 'CONNECT' THEN 'https' ELSE 'http' END")
    return Format(
        name=TSV.name,
        split=TSV.split,
        example=TSV.example,
        layouts=(Layout(columns=columns, fields=fields),),
    )
