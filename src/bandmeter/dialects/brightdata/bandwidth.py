"""GET /zone/bw and /customer/bw: bytes and requests per zone and UTC day, with sums."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

from bandmeter.dialects.brightdata.wire import (
    DAY,
    FROM,
    TO,
    ZONE,
    Moment,
    back_buckets,
    both,
    encode,
    iso,
    iso_ms,
    read_date,
    read_zone,
    reply,
    today_of,
    window,
)
from bandmeter.domain import errors
from bandmeter.domain.contracts import Call, Endpoint, Parameter, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.questions import UsageAnswer, UsageQuestion
from bandmeter.domain.usage import DIMENSIONS, Columns

# ---------------------------------------------------------------- metrics


class Metric(NamedTuple):
    """A number of the vendor's: which counter, of the traffic with which dimensions.

    `where`: dimension → the values that count; all traffic counts where a dimension is not named.
    `always`: present also when it did not occur, so that clients which read it of an idle zone get 0 [ours].
    """

    name: str
    counts: str
    where: Mapping[str, tuple[str, ...]]
    always: bool = False


_DATACENTER = ("dc", "isp")
_PEERS = ("res", "mobile")
METRICS = (
    Metric("bw_sum", "bytes", {}, always=True),
    Metric("bw_dn", "bytes_down", {}, always=True),
    Metric("bw_up", "bytes_up", {}, always=True),
    Metric("http_direct_req", "requests", {"network": _DATACENTER, "scheme": ("http",)}),
    Metric("bw_sum_dc", "bytes", {"network": _DATACENTER}),
    Metric("bw_api", "bytes", {"access": ("api",)}),
    Metric("https_direct_req", "requests", {"network": _DATACENTER, "scheme": ("https",)}),
    Metric("bw_sum_res", "bytes", {"network": ("res",)}),
    Metric("bw_sum_mobile", "bytes", {"network": ("mobile",)}),
    Metric("bw_lpm", "bytes", {"access": ("lpm",)}),
    Metric("bw_bext", "bytes", {"access": ("bext",)}),
    Metric("bw_cloud_lpm", "bytes", {"access": ("cloud_lpm",)}),
    Metric("http_svc_req", "requests", {"network": _PEERS, "scheme": ("http",)}),
    Metric("https_svc_req", "requests", {"network": _PEERS, "scheme": ("https",)}),
    Metric("reqs_unblocker_billable", "successes", {"network": ("unlocker",)}),
    Metric("reqs_serp_billable", "successes", {"network": ("serp",)}),
)


_Numbers = list[int]  # one a day


@functools.lru_cache(maxsize=1024)  # the combinations of dimensions that zones have: a handful in any real store
def _parts(present: tuple[int, ...]) -> tuple[tuple[Metric, tuple[int, ...]], ...]:
    """Each metric with those of the `present` packed dimensions whose traffic adds to it."""
    return tuple((metric, tuple(packed for packed in present if _adds(metric, packed))) for metric in METRICS)


def _adds(metric: Metric, packed: int) -> bool:
    return all(DIMENSIONS[name].value(packed) in values for name, values in metric.where.items())


def series(rows: Columns, span: Span) -> dict[str, _Numbers]:
    """One number a day of `span` for each metric that always stands there or occurred, in the order of the table.

    Metrics with equal parts share one list: do not change them.
    """
    days = (span.end - span.start) // DAY
    columns = _by_dimensions(rows, span.start, days)
    shared: dict[tuple[str, tuple[int, ...]], _Numbers] = {}
    found = {}
    for metric, parts in _parts(tuple(columns)):
        if not parts and not metric.always:
            continue
        key = (metric.counts, parts)
        if key not in shared:
            shared[key] = _add([columns[part][metric.counts] for part in parts], days)
        if metric.always or any(shared[key]):
            found[metric.name] = shared[key]
    return found


def _add(parts: list[_Numbers], days: int) -> _Numbers:
    if not parts:
        return [0] * days
    return functools.reduce(lambda a, b: list(map(operator.add, a, b)), parts)


def _by_dimensions(rows: Columns, start: int, days: int) -> dict[int, dict[str, _Numbers]]:
    """Packed dimensions → counter → one number a day. A column at a time: half the cost of a row at a time."""
    if not rows.bucket:
        return {}
    buckets, dimensions, requests, successes, up, down = map(list, rows)
    sums = list(map(operator.add, down, up))
    counters = {"bytes": sums, "bytes_down": down, "bytes_up": up, "requests": requests, "successes": successes}
    present = list(dict.fromkeys(dimensions))
    width = len(present)
    if dimensions == present * days and buckets[::width] == list(range(start, start + days * DAY, DAY)):
        # Every kind of traffic on every day, as in busy zones: the columns are there already, interleaved.
        return {
            packed: {name: values[place::width] for name, values in counters.items()}
            for place, packed in enumerate(present)
        }
    places = {packed: place * days for place, packed in enumerate(present)}
    indices = [places[packed] + (bucket - start) // DAY for bucket, packed in zip(buckets, dimensions, strict=True)]
    spread = {name: _spread(values, indices, days * width) for name, values in counters.items()}
    return {
        packed: {name: numbers[place : place + days] for name, numbers in spread.items()}
        for packed, place in places.items()
    }


def _spread(values: list[int], indices: list[int], length: int) -> _Numbers:
    numbers = [0] * length
    for index, value in zip(indices, values, strict=True):
        numbers[index] = value
    return numbers


# ---------------------------------------------------------------- question

_DETAILS = Parameter(
    "details",
    {"type": "string", "enum": ["0", "1"]},
    "1: the sums of old clients instead (this month and the two before, today and the two days before), every metric "
    "zero-filled. Not together with from or to.",
)


def _wants_details(call: Call) -> bool:
    details = call.parameters.get("details", "0")
    if details not in {"0", "1"}:
        raise BandmeterError(errors.PARAMETER_INVALID, "details takes 0 or 1.")
    if details == "1" and _has_dates(call):
        raise BandmeterError(errors.PARAMETER_INVALID, "details takes 1 only without from and to.")
    return details == "1"


def _has_dates(call: Call) -> bool:
    return "from" in call.parameters or "to" in call.parameters


def _span(call: Call) -> Span:
    """The window: by default the previous month's first day to tomorrow [seed]; one date alone keeps the other's."""
    today = today_of(call)
    if _wants_details(call):
        return Span(back_buckets(today)["back_m2"].start, today + DAY)
    default = Span(back_buckets(today)["back_m1"].start, today + DAY)
    if not _has_dates(call):
        return default
    start = read_date(call, "from") or Moment(default.start)
    end = read_date(call, "to") or Moment(default.end)
    return window(start, end)


def _parse_zone(call: Call) -> UsageQuestion:
    zone = read_zone(call)
    return UsageQuestion(call.account.id, _span(call), (zone,))


def _parse_customer(call: Call) -> UsageQuestion:
    return UsageQuestion(call.account.id, _span(call))


# ---------------------------------------------------------------- answer


def _sums(numbers: dict[str, list[int]], span: Span, buckets: Mapping[str, Span]) -> dict[str, dict[str, int]]:
    """Bucket → metric → the sum of the days that lie in both."""
    sums = {}
    for name, bucket in buckets.items():
        days = slice((bucket.start - span.start) // DAY, (bucket.end - span.start) // DAY)
        sums[name] = {metric: sum(values[days]) for metric, values in numbers.items()}
    return sums


def _render(call: Call, question: Any, answer: UsageAnswer) -> Reply:
    if _wants_details(call):
        return _render_details(call, question, answer)
    span, customer = question.span, call.account.id
    buckets = {name: b for name, b in back_buckets(today_of(call)).items() if name != "back_m2"}
    if _has_dates(call):
        # One date alone is summed the same way: the relative buckets may lie outside its window.
        buckets = {"custom": span}
    data = {used.zone.name: series(used.columns, span) for used in answer.zones}
    body = {
        "customer_id": customer,
        "from": iso(span.start),
        "to": iso(span.end),
        "data": data,
        "last_value_ts": _stamp(answer.newest_ms),
        "last_update_ts": _stamp(answer.committed_ms),
        "sums": {zone: _sums(numbers, span, buckets) for zone, numbers in data.items()},
    }
    return reply({customer: body})


def _stamp(ms: int | None) -> str | None:
    return None if ms is None else iso_ms(ms)


def _restamp(reply: Reply, shown_ms: int | None, now_ms: int | None) -> Reply:
    """With another `last_update_ts`; that of `details` has none. Its value tells it from a zone of that name."""
    before, after = (b'"last_update_ts":' + encode(_stamp(ms)) for ms in (shown_ms, now_ms))
    return reply._replace(body=reply.body.replace(before, after, 1))


def _render_details(call: Call, question: Any, answer: UsageAnswer) -> Reply:
    span, buckets = question.span, back_buckets(today_of(call))
    zeros = dict.fromkeys((metric.name for metric in METRICS), 0)
    sums = {used.zone.name: _sums(series(used.columns, span), span, buckets) for used in answer.zones}
    filled = {zone: {name: zeros | bucket for name, bucket in of.items()} for zone, of in sums.items()}
    return reply({call.account.id: filled})


# ---------------------------------------------------------------- schema

_COUNT = {"type": "integer", "minimum": 0}
_STAMP = {"type": "string", "format": "date-time"}


def _by_metric(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {metric.name: value for metric in METRICS},
        "required": [metric.name for metric in METRICS if metric.always],
        "additionalProperties": False,
    }


def _by_name(value: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": value}


_BUCKETS = _by_name(_by_metric(_COUNT))
_WRAPPED = {
    "type": "object",
    "properties": {
        "customer_id": {"type": "string"},
        "from": _STAMP,
        "to": _STAMP,
        "data": _by_name(_by_metric({"type": "array", "items": _COUNT})),
        "last_value_ts": {"type": ["string", "null"], "format": "date-time"},
        "last_update_ts": {"type": ["string", "null"], "format": "date-time"},
        "sums": _by_name(_BUCKETS),
    },
    "required": ["customer_id", "from", "to", "data", "last_value_ts", "last_update_ts", "sums"],
    "additionalProperties": False,
}
_SCHEMA = _by_name({"anyOf": [_WRAPPED, _by_name(_BUCKETS)]}) | {"minProperties": 1, "maxProperties": 1}

BANDWIDTH = (
    Endpoint(
        name="zone_bw",
        paths=both("/zone/bw"),
        summary="Bytes and requests of one zone per UTC day, with sums",
        parse=_parse_zone,
        render=_render,
        schema=_SCHEMA,
        parameters=(ZONE, FROM, TO, _DETAILS),
        errors=(errors.ZONE_UNKNOWN,),
        steady_s=DAY,
        restamp=_restamp,
    ),
    Endpoint(
        name="customer_bw",
        paths=both("/customer/bw"),
        summary="Bytes and requests of every zone per UTC day, with sums",
        parse=_parse_customer,
        render=_render,
        schema=_SCHEMA,
        parameters=(FROM, TO, _DETAILS),
        is_heavy=True,
        steady_s=DAY,
        restamp=_restamp,
    ),
)
