"""The traffic record as a JSON line (docs/records.md)."""

from __future__ import annotations

from bandmeter.domain.contracts import Format, Layout

# Field of the record → the column that holds it. The tab-separated table uses the same names.
RECORD = (
    "time",
    "duration",
    "account",
    "zone",
    "identity",
    "bytes_up",
    "bytes_down",
    "target_bytes_up",
    "target_bytes_down",
    "client_bytes_up",
    "client_bytes_down",
    "requests",
    "scheme",
    "network",
    "ip_version",
    "access",
    "pool",
    "host",
    "status",
)

RECORD_FIELDS = {
    "time_ms": "time_ms_of(time)",
    "account": "account",
    "zone": "zone",
    "identity": "nullif(identity, '')",
    "bytes_up": "whole(bytes_up)",
    "bytes_down": "whole(bytes_down)",
    "target_bytes_up": "whole(target_bytes_up)",
    "target_bytes_down": "whole(target_bytes_down)",
    "client_bytes_up": "whole(client_bytes_up)",
    "client_bytes_down": "whole(client_bytes_down)",
    "requests": "CASE WHEN requests IS NULL THEN 1 ELSE whole(requests) END",
    "scheme": "scheme",
    "network": "network",
    "ip_version": "ip_version",
    "access": "access",
    "pool": "pool",
    "host": "host",
    "duration_ms": "CASE WHEN duration IS NULL THEN 0 ELSE seconds_ms(duration) END",
    "status": "CASE WHEN status IS NULL THEN NULL ELSE coalesce(whole(status), -1) END",
}

_HAS = {
    "has_bytes": "bytes_up IS NOT NULL OR bytes_down IS NOT NULL",
    "has_target_bytes": "target_bytes_up IS NOT NULL OR target_bytes_down IS NOT NULL",
    "has_client_bytes": "client_bytes_up IS NOT NULL OR client_bytes_down IS NOT NULL",
}

JSONL = Format(
    name="jsonl",
    split="json",
    example='{"time": "2026-11-20T06:00:00.250Z", "account": "acme", "zone": "res2", "bytes_up": 512, '
    '"bytes_down": 20480, "scheme": "https", "status": 200}',
    layouts=(
        Layout(columns=RECORD, fields=RECORD_FIELDS | _HAS | {"time_ms": "time_ms_of(as_written(line, 'time', time))"}),
    ),
)
