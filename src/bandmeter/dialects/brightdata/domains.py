"""GET /domains/bw and /domains/req: bytes and requests of each target domain, by zone and UTC day.

The nesting, and that both dates must be there, are [live]; what is absent is [ours].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bandmeter.dialects.brightdata.cost import PERIOD
from bandmeter.dialects.brightdata.wire import FROM, TO, both, iso, read_date, reply, window
from bandmeter.domain import errors
from bandmeter.domain.contracts import Call, Endpoint, Parameter, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.questions import TargetsAnswer, TargetsQuestion
from bandmeter.domain.tenancy import ZONE_NAME
from bandmeter.domain.usage import HostRow

ZONES = Parameter(
    "zones",
    {"type": "string", "pattern": f"^{ZONE_NAME.pattern}(,{ZONE_NAME.pattern})*$", "maxLength": 2_048},
    "Names of zones of the key's account, comma-separated. Without it: every zone with traffic.",
)


def _bytes(row: HostRow) -> int:
    return row.bytes_up + row.bytes_down


def _requests(row: HostRow) -> int:
    return row.requests


def _parse(call: Call) -> TargetsQuestion:
    if not {"from", "to"} <= call.parameters.keys():
        raise BandmeterError(errors.PARAMETER_MISSING, PERIOD)
    start, end = read_date(call, "from"), read_date(call, "to")
    if start is None or end is None:
        raise BandmeterError(errors.PARAMETER_MISSING, PERIOD)
    return TargetsQuestion(call.account.id, window(start, end), _read_zones(call))


def _read_zones(call: Call) -> tuple[str, ...] | None:
    text = call.parameters.get("zones")
    if text is None:
        return None
    names = text.split(",")
    if "" in names:
        raise BandmeterError(errors.PARAMETER_INVALID, "zones takes names of zones, comma-separated.")
    return tuple(names)


def _render(number: Callable[[HostRow], int]) -> Callable[[Call, Any, TargetsAnswer], Reply]:
    def render(_call: Call, question: TargetsQuestion, answer: TargetsAnswer) -> Reply:
        """What is 0 is absent; but a zone that was named is there, so that a client which reads it finds it."""
        body: dict[str, dict[str, dict[str, int]]] = {}
        for zone, rows in answer.zones:
            days: dict[str, dict[str, int]] = {}
            for row in rows:
                if count := number(row):
                    days.setdefault(iso(row.day), {})[row.host] = count
            if days or question.zones is not None:
                body[zone.name] = days
        return reply(body)

    return render


def _by_name(value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": value}


def _schema(description: str) -> dict[str, Any]:
    count = {"type": "integer", "minimum": 1, "description": description}
    days = {
        "type": "object",
        "patternProperties": {r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T00:00:00\.000Z$": _by_name(count)},
        "additionalProperties": False,
    }
    return _by_name(days) | {"description": "Zone → start of a UTC day → target domain."}


DOMAINS = tuple(
    Endpoint(
        name=f"domains_{metric}",
        paths=both(f"/domains/{metric}"),
        summary=f"{what} of each target domain, by zone and UTC day",
        parse=_parse,
        render=_render(number),
        schema=_schema(f"{what}; never 0."),
        parameters=(FROM._replace(required=True), TO._replace(required=True), ZONES),
        errors=(errors.ZONE_UNKNOWN,),
        is_heavy=True,
    )
    for metric, what, number in (("bw", "Bytes", _bytes), ("req", "Requests", _requests))
)
