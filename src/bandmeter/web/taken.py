"""What `POST /v1/records` takes, as the OpenAPI document shows it.

The schemas help a sender and refuse nothing: a record that does not fit is rejected alone, and reported, so a body of
any shape may be sent.
"""

from __future__ import annotations

from typing import Any

from bandmeter.domain.usage import BYTES_MAX, DIMENSIONS, REQUESTS_MAX, UNKNOWN
from bandmeter.formats import FORMATS
from bandmeter.ingest.batch.hosts import HOST_BYTES_MAX
from bandmeter.ingest.batch.query import IDENTITY_LENGTH_MAX, PAIRS
from bandmeter.ingest.posts import bodies

_TEXT = {"type": "string", "minLength": 1}
_BYTES = {"type": "integer", "minimum": 0, "maximum": BYTES_MAX}
_TIME = {
    "description": "When the request ended: RFC 3339 with its offset, or Unix seconds.",
    "anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0}],
}
_VALUES: dict[str, dict[str, list[Any]]] = {
    name: {"enum": [value for value in dimension.values if value != UNKNOWN]} for name, dimension in DIMENSIONS.items()
}
_VALUES["ip_version"] = {"enum": [4, 6, "4", "6"]}
RECORD: dict[str, Any] = {
    "type": "object",
    "properties": {
        "time": _TIME,
        "duration": {"type": "number", "minimum": 0, "description": "Seconds before `time` at which it began."},
        "account": _TEXT,
        "zone": _TEXT,
        "identity": {"type": "string", "maxLength": IDENTITY_LENGTH_MAX},
        **{field: _BYTES for pair in reversed(PAIRS.values()) for field in pair},
        "requests": {"type": "integer", "minimum": 0, "maximum": REQUESTS_MAX, "default": 1},
        "status": {"type": "integer", "minimum": 100, "maximum": 599},
        **_VALUES,
        "host": {"type": "string", "maxLength": HOST_BYTES_MAX},
    },
    "required": ["time"],
    "examples": [{"time": 1795302000.5, "account": "acme", "zone": "res2", "bytes_up": 512, "bytes_down": 20480}],
}
_EVENT: dict[str, Any] = {
    "type": "object",
    "properties": {"specversion": {"const": "1.0"}, "id": _TEXT, "source": _TEXT, "type": _TEXT, "data": RECORD},
    "required": ["specversion", "id", "source", "type", "data"],
}
_ANYTHING: dict[str, Any] = {"description": "What is no record is rejected, and its neighbours are counted."}


def _one_or_many(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "array", "items": schema}, _ANYTHING]}


def _of(media_type: str) -> dict[str, Any]:
    format_name, shape = bodies.MEDIA_TYPES[media_type]
    if shape == bodies.VALUE:
        return _one_or_many(_EVENT if format_name == "cloudevents" else RECORD)
    return {"description": "One a line.", "examples": [f"{FORMATS[format_name].example}\n"]}


BODIES = {media_type: _of(media_type) for media_type in bodies.MEDIA_TYPES}
