"""The limit for ingest: DuckDB alone, summing the same file per zone and 5 minutes, and keeping nothing."""

from __future__ import annotations

import sys

import duckdb

COLUMNS = (
    *("time", "duration_ms", "client", "identity", "method", "host", "port", "status", "result"),
    *("target_ip", "bytes_up", "bytes_down"),
)
TYPES = {"time": "DOUBLE", "bytes_up": "BIGINT", "bytes_down": "BIGINT"}

if __name__ == "__main__":
    columns = ", ".join(f"'{name}': '{TYPES.get(name, 'VARCHAR')}'" for name in COLUMNS)
    rows = (
        duckdb.connect()
        .execute(
            f"""SELECT split_part(identity, '-session-', 1), floor(time / 300)::BIGINT, count(*), sum(bytes_up),
            sum(bytes_down)
        FROM read_csv(?, delim = '\t', header = false, quote = '', columns = {{{columns}}}) GROUP BY ALL""",
            [sys.argv[1]],
        )
        .fetchall()
    )
    print(len(rows))
