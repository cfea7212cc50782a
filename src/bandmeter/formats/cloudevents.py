"""CloudEvents in JSON, one a line: the traffic record is in `data` (docs/records.md)."""

from __future__ import annotations

import dataclasses

from bandmeter.formats.jsonl import JSONL

CLOUDEVENTS = dataclasses.replace(
    JSONL,
    name="cloudevents",
    prefix="data.",
    example='{"specversion": "1.0", "id": "7", "source": "/edge1", "type": "bandmeter.traffic", "data": {"time": '
    '"2026-11-20T06:00:00.250Z", "account": "acme", "zone": "res2", "bytes_up": 512, "bytes_down": 20480}}',
)
