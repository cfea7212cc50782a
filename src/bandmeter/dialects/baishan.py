"""The BaishanCloud dialect: bandwidth, traffic and requests of CDN domains, which here are zones.

Sources, as marked below: [seed] the vendor's own pages, [live] seen in a real account's answer or in public client
code, [ours] published by nobody.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from bandmeter.domain import errors, localtime
from bandmeter.domain.contracts import Call, Dialect, Endpoint, Limit, Parameter, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span, Unit
from bandmeter.domain.questions import SeriesAnswer, SeriesQuestion
from bandmeter.domain.usage import Measure, Side

_ENCODE = msgspec.json.encode
_JSON = "application/json; charset=utf-8"

DOMAINS_MAX = 10
DOMAIN_LENGTH_MAX = 253  # characters of a name: the longest domain name (RFC 1035)
EVERY_DOMAIN = "all"
DAYS_MAX = 31
GRAINS = {"minute5": Unit.FIVE_MINUTES, "hour": Unit.HOUR, "day": Unit.DAY}
GRAIN_DEFAULT = "minute5"
GRAIN_DAYS_MAX = {"minute5": 10}  # shorter than DAYS_MAX
PROTOCOLS: dict[str, tuple[tuple[str, str], ...]] = {
    "all": (),
    "ipv4": (("ip_version", "4"),),  # traffic of unknown version is in `all` only
    "ipv6": (("ip_version", "6"),),
}
BANDWIDTH, TRAFFIC, REQUESTS = "bandwidth", "traffic", "requests"

# ---------------------------------------------------------------- headers and errors

# What the vendor calls each endpoint by. 1171 is the number of its documentation page; 1170 is ours, next to it.
API_IDS = {
    "bandwidth": "1039",
    "bandwidth_each": "1043",
    "origin_bandwidth": "1170",
    "origin_bandwidth_each": "1171",
    "request_each": "1191",
}
# Code → status and sentence; "" takes the error's own.
_ERRORS = {
    errors.KEY_MISSING: (401, "Token is missing."),
    errors.KEY_INVALID: (401, "Invalid token."),
    errors.SCOPE_MISSING: (401, "This token lacks access."),  # [live] 401 also for lack of access
    errors.PARAMETER_MISSING: (400, ""),
    errors.PARAMETER_INVALID: (400, ""),
    errors.ZONE_UNKNOWN: (400, ""),
    errors.ACCOUNT_UNKNOWN: (401, "Invalid token."),
    errors.ROUTE_UNKNOWN: (404, "Not found."),
    errors.METHOD_UNKNOWN: (405, "Method not allowed."),
    errors.RATE_LIMITED: (429, "Too many requests."),
    errors.UNAVAILABLE: (503, "Service unavailable."),
    errors.FAILURE: (500, "Internal server error."),
}
_UNAUTHORIZED = 401


def render_error(error: BandmeterError) -> Reply:
    """`{"code": <the HTTP status>, "message": "sentence"}` [live]."""
    status, sentence = _ERRORS.get(error.code, _ERRORS[errors.FAILURE])
    return Reply(_ENCODE({"code": status, "message": sentence or error.sentence}), status, _JSON)


def sign(reply: Reply, endpoint: Endpoint | None, limit: Limit | None) -> Reply:
    """With the endpoint's id and the token's limit, which every answer carries but a 401."""
    if reply.status == _UNAUTHORIZED:
        return reply
    headers = dict(reply.headers)
    if endpoint is not None:
        headers["Api-Id"] = API_IDS[endpoint.name]
    if limit is not None:
        headers |= {
            "X-Ratelimit-Grad": "minute",
            "X-Ratelimit-Limit": str(limit.limit),
            "X-Ratelimit-Remaining": str(limit.remaining),
            "X-Retry-After": str(limit.reset_s),
        }
    return reply._replace(headers=headers)


# ---------------------------------------------------------------- parameters

_TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}( [0-9]{2}:[0-9]{2})?$"
_TIME = re.compile(_TIME_PATTERN.removesuffix("$"))
_TIME_TAKES = "takes YYYY-mm-dd or YYYY-mm-dd HH:ii, of 1970 to 2999"
_YEARS = range(1970, 3000)


def _read_time(call: Call, name: str, of_a_day: dt.time) -> dt.datetime:
    """What the clock shows; a date alone stands for `of_a_day`."""
    text = call.parameters.get(name)
    if not text:
        raise BandmeterError(errors.PARAMETER_MISSING, f"{name} is missing: it {_TIME_TAKES}.")
    read = _parse_time(text)
    if read is None:
        raise BandmeterError(errors.PARAMETER_INVALID, f"{name} {_TIME_TAKES}.")
    return read if ":" in text else dt.datetime.combine(read, of_a_day)


def _parse_time(text: str) -> dt.datetime | None:
    if not _TIME.fullmatch(text) or int(text[:4]) not in _YEARS:
        return None
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:  # no such day or minute
        return None


def _read_choice(call: Call, name: str, choices: Sequence[str], default: str) -> str:
    """One of a few words; `parameter_invalid` names them."""
    text = call.parameters.get(name, default)
    if text not in choices:
        raise BandmeterError(errors.PARAMETER_INVALID, f"{name} takes one of {', '.join(choices)}.")
    return text


def _read_grain(call: Call) -> str:
    return _read_choice(call, "grad", list(GRAINS), GRAIN_DEFAULT)


def _read_domains(call: Call) -> tuple[str, ...] | None:
    """The names, each once, in the order of the caller; None: every active one."""
    text = call.parameters.get("domains", "").strip()
    if not text:
        raise BandmeterError(errors.PARAMETER_MISSING, "domains is missing: it takes names, comma separated, or all.")
    if text == EVERY_DOMAIN:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(0 < len(name) <= DOMAIN_LENGTH_MAX for name in names):
        sentence = f"domains takes names of 1 to {DOMAIN_LENGTH_MAX} characters, comma separated."
        raise BandmeterError(errors.PARAMETER_INVALID, sentence)
    if len(names) > DOMAINS_MAX:
        raise BandmeterError(errors.PARAMETER_INVALID, f"domains takes at most {DOMAINS_MAX} names, or all.")
    return tuple(dict.fromkeys(names))


def _span(call: Call, timezone: str) -> Span:
    """Both ends cut down to the grain, the end's bucket inclusive [live]."""
    start = _read_time(call, "start_time", dt.time(0, 0))
    end = _read_time(call, "end_time", dt.time(23, 59))
    if end <= start:
        raise BandmeterError(errors.PARAMETER_INVALID, "end_time must be later than start_time.")
    grain = _read_grain(call)
    for days, sentence in (
        (DAYS_MAX, f"start_time and end_time may be at most {DAYS_MAX} days apart."),
        (GRAIN_DAYS_MAX.get(grain, DAYS_MAX), f"With grad={grain} they may be at most {{}} days apart."),
    ):
        if end - start > dt.timedelta(days=days):
            raise BandmeterError(errors.PARAMETER_INVALID, sentence.format(days))
    unit = GRAINS[grain]
    first = localtime.bucket(localtime.moment(start, timezone), unit, timezone)
    last = localtime.bucket(localtime.moment(end, timezone, is_end=True), unit, timezone)
    return Span(first.start, last.end)


# ---------------------------------------------------------------- endpoints


class Statistic(NamedTuple):
    """An endpoint: what it counts, of which side (None: the one that the zone bills), and of each domain or in sum."""

    name: str
    path: str
    summary: str
    side: Side | None = None
    measure: Measure = Measure.BYTES
    is_each: bool = False


STATISTICS = (
    Statistic("bandwidth", "bandwidth", "Bandwidth or traffic of several domains together"),
    Statistic("bandwidth_each", "bandwidth/eachDomain", "Bandwidth or traffic of each domain", is_each=True),
    Statistic(
        "origin_bandwidth", "originBandwidth", "Bandwidth or traffic back to the origin, of several domains together",
        side=Side.TARGET,
    ),
    Statistic(
        "origin_bandwidth_each", "originBandwidth/eachDomain", "Bandwidth or traffic back to the origin of each domain",
        side=Side.TARGET, is_each=True,
    ),
    Statistic(
        "request_each", "request/eachDomain", "Requests of each domain", measure=Measure.REQUESTS, is_each=True
    ),
)  # fmt: skip


def _read_kind(call: Call, statistic: Statistic) -> str:
    if statistic.measure is Measure.REQUESTS:
        return REQUESTS
    return _read_choice(call, "data_type", (BANDWIDTH, TRAFFIC), BANDWIDTH)


def _ask(call: Call, statistic: Statistic, timezone: str) -> SeriesQuestion:
    _read_kind(call, statistic)
    return SeriesQuestion(
        call.account.id,
        names=_read_domains(call),
        span=_span(call, timezone),
        resolution=GRAINS[_read_grain(call)],
        measure=statistic.measure,
        where=PROTOCOLS[_read_choice(call, "ip_protocol", list(PROTOCOLS), "all")],
        side=statistic.side,
        timezone=timezone,
    )


def hundredths(count: int, seconds: int) -> int:
    """Bits a second of that many bytes, in hundredths, half up: exact, whatever the size."""
    return (count * 1_600 + seconds) // (2 * seconds)


def _points(kind: str, edges: Sequence[int], buckets: Sequence[int], values: Sequence[int]) -> list[Any]:
    """[start of the bucket, value]; those whose value is 0 are left out [seed]."""
    shown: Sequence[float] = values
    if kind == BANDWIDTH and isinstance(edges, range):  # five minutes: there may be thousands of points
        seconds = edges.step
        twice = 2 * seconds
        shown = [(value * 1_600 + seconds) // twice / 100 for value in values]
    elif kind == BANDWIDTH:
        lengths = {start: end - start for start, end in pairwise(edges)}
        pairs = zip(buckets, values, strict=True)
        shown = [hundredths(value, lengths[bucket]) / 100 for bucket, value in pairs]
    points = zip(buckets, shown, strict=True)
    return [point for point in points if point[1]] if 0 in shown else list(points)


def _render(call: Call, statistic: Statistic, answer: SeriesAnswer) -> Reply:
    kind, edges = _read_kind(call, statistic), answer.edges
    data: Any
    if statistic.is_each:
        data = {
            one.name: {"domain": one.name, "data": _points(kind, edges, one.buckets, one.values)}
            for one in answer.series
        }
    else:
        data = _points(kind, edges, *answer.total())
    return Reply(_ENCODE({"code": 0, "data": data}), content_type=_JSON)


# ---------------------------------------------------------------- the table

_POINT = {
    "type": "array",
    "description": "The Unix time of the bucket's start, and its value.",
    "items": {"type": "number", "exclusiveMinimum": 0},
    "minItems": 2,
    "maxItems": 2,
}
_SERIES = {"type": "array", "items": _POINT}


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


_EACH = {"type": "object", "additionalProperties": _object({"domain": {"type": "string"}, "data": _SERIES})}


def _time(name: str, meaning: str, clock: str) -> Parameter:
    return Parameter(
        name, {"type": "string", "pattern": _TIME_PATTERN}, f"{meaning} It {_TIME_TAKES}, {clock}.", required=True
    )


def _choice(name: str, choices: Sequence[str], default: str, meaning: str) -> Parameter:
    return Parameter(name, {"type": "string", "enum": list(choices)}, f"{meaning} {default} when not sent.")


_NAME = rf"[^, ]{{1,{DOMAIN_LENGTH_MAX}}}"


def _parameters(statistic: Statistic, timezone: str) -> tuple[Parameter, ...]:
    clock = f"by the clock of {timezone}"
    shared = (
        Parameter(
            "domains",
            {"type": "string", "pattern": rf"^ *{_NAME} *(, *{_NAME} *){{0,{DOMAINS_MAX - 1}}}$"},
            f"Up to {DOMAINS_MAX} names, comma separated, or {EVERY_DOMAIN}: every active domain.",
            required=True,
        ),
        _time("start_time", "The first bucket holds it; a date alone is 00:00.", clock),
        _time(
            "end_time",
            f"The last bucket holds it; a date alone is 23:59. Later than start_time, at most {DAYS_MAX} days.",
            clock,
        ),
        _choice("grad", list(GRAINS), GRAIN_DEFAULT, "Length of a bucket; minute5 for at most 10 days."),
        _choice("ip_protocol", list(PROTOCOLS), "all", "Which traffic."),
    )
    kinds = _choice("data_type", (BANDWIDTH, TRAFFIC), BANDWIDTH, "Bits per second, or bytes.")
    return shared if statistic.measure is Measure.REQUESTS else (*shared, kinds)


def _endpoint(statistic: Statistic, timezone: str) -> Endpoint:
    return Endpoint(
        name=statistic.name,
        paths=(f"/v2/stat/{statistic.path}",),
        summary=statistic.summary,
        parse=lambda call: _ask(call, statistic, timezone),
        render=lambda call, _question, answer: _render(call, statistic, answer),
        schema=_object({"code": {"type": "integer", "const": 0}, "data": _EACH if statistic.is_each else _SERIES}),
        parameters=_parameters(statistic, timezone),
        errors=(errors.ZONE_UNKNOWN,),
        is_heavy=True,
        light_zones=1,  # a millisecond at most
        steady_s=int(Resolution.DAY),  # it asks no clock, so any step would do
        media_types=(_JSON,),
    )


def build(timezone: str) -> Dialect:
    """The dialect whose times are read, and whose days are cut, by the clock of an IANA time zone."""
    return Dialect(
        name="baishan",
        title="BaishanCloud",
        endpoints=tuple(_endpoint(statistic, timezone) for statistic in STATISTICS),
        credentials=(("query", "token"), ("bearer", "authorization")),
        render_error=render_error,
        prefixes=("/v2",),
        sign=sign,
    )
