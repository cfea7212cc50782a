"""GET /zone/cost and /customer/balance: money, rounded here and nowhere before."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from bandmeter.dialects.brightdata.wire import (
    DAY,
    FROM,
    TO,
    ZONE,
    back_buckets,
    both,
    read_date,
    read_zone,
    reply,
    today_of,
    window,
)
from bandmeter.domain import errors
from bandmeter.domain.contracts import Call, Endpoint, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.money import rounded
from bandmeter.domain.questions import Balance, BalanceQuestion, Cost, CostAnswer, CostQuestion

PLACES = 4  # of an amount or a number of GB in an answer
PERIOD = "You must provide period with both to and from"  # [live], there with status 500
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # in any locale


def _buckets(call: Call) -> dict[str, Span]:
    """The buckets asked for: the six relative ones, or `custom`, which needs both dates."""
    sent = {"from", "to"} & call.parameters.keys()
    if not sent:
        return back_buckets(today_of(call))
    try:
        start, end = read_date(call, "from"), read_date(call, "to")
    except BandmeterError as error:
        raise BandmeterError(errors.PARAMETER_INVALID, PERIOD) from error
    if start is None or end is None:
        raise BandmeterError(errors.PARAMETER_INVALID, PERIOD)
    return {"custom": window(start, end)}


def _parse_cost(call: Call) -> CostQuestion:
    zone = read_zone(call)
    spans = tuple(_buckets(call).values())
    if not {"from", "to"} & call.parameters.keys():
        # To the end of today, as in /zone/bw: a record may be stamped ten minutes ahead.
        tomorrow = today_of(call) + DAY
        spans = tuple(Span(span.start, min(span.end, tomorrow)) for span in spans)
    return CostQuestion(call.account.id, spans, (zone,))


def _render_cost(call: Call, _question: object, answer: CostAnswer) -> Reply:
    (zone,) = answer.zones
    billed = "reqs_serp" if zone.zone.network == "serp" else "reqs_unblocker"
    buckets = {
        name: _bucket(cost, _range(name, span), billed)
        for (name, span), cost in zip(_buckets(call).items(), zone.costs, strict=True)
    }
    return reply({call.account.id: buckets})


def _bucket(cost: Cost, shown: dict[str, str], billed: str) -> dict[str, Any]:
    bucket: dict[str, Any] = {"bw": cost.bytes, "cost": rounded(cost.amount, PLACES)}
    if cost.unit == "bytes" and cost.bytes:
        bucket["gbs"] = rounded(Decimal(cost.bytes).scaleb(-9), PLACES)
    if cost.unit == "requests":
        bucket[billed] = cost.successes
    return bucket | {"range": shown}


def _range(bucket: str, span: Span) -> dict[str, str]:
    """`Sep-2022` for a month, `5-Apr-2026` for a day; `to` is exclusive [live]."""
    is_month = bucket.startswith("back_m")
    return {"from": _day(span.start, is_month=is_month), "to": _day(span.end, is_month=is_month)}


def _day(second: int, *, is_month: bool) -> str:
    day = dt.datetime.fromtimestamp(second, dt.UTC)
    month = f"{_MONTHS[day.month - 1]}-{day.year}"
    return month if is_month else f"{day.day}-{month}"


def _parse_balance(call: Call) -> BalanceQuestion:
    return BalanceQuestion(call.account.id, call.now_ms // 1000)


def _render_balance(_call: Call, _question: object, answer: Balance) -> Reply:
    pending = rounded(answer.pending, PLACES)
    return reply(
        {
            "balance": rounded(answer.balance, PLACES),
            "credit": rounded(answer.credit, PLACES),
            "prepayment": rounded(answer.prepayment, PLACES),
            "pending_costs": pending,
            "pending_balance": pending,  # the vendor's own command line client reads this name [live]
        },
    )


_NUMBER = {"type": "number", "minimum": 0}
_COUNT = {"type": "integer", "minimum": 0}
_BUCKET = {
    "type": "object",
    "properties": {
        "bw": _COUNT | {"description": "Bytes."},
        "cost": _NUMBER | {"description": "In the account's currency; traffic of the trial costs 0."},
        "gbs": _NUMBER | {"description": "GB (10^9 bytes), where the plan bills bytes and there was traffic."},
        "reqs_unblocker": _COUNT,
        "reqs_serp": _COUNT,
        "range": {
            "type": "object",
            "properties": {"from": {"type": "string"}, "to": {"type": "string", "description": "Exclusive."}},
            "required": ["from", "to"],
            "additionalProperties": False,
        },
    },
    "required": ["bw", "cost", "range"],
    "additionalProperties": False,
}
_COST_SCHEMA = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": dict.fromkeys((*back_buckets(DAY), "custom"), _BUCKET),
        "minProperties": 1,
        "additionalProperties": False,
    },
    "minProperties": 1,
    "maxProperties": 1,
}
_BALANCE_SCHEMA = {
    "type": "object",
    "properties": {
        "balance": {"type": "number"},
        "credit": {"type": "number"},
        "prepayment": {"type": "number"},
        "pending_costs": _NUMBER,
        "pending_balance": _NUMBER | {"description": "The same as pending_costs."},
    },
    "required": ["balance", "credit", "prepayment", "pending_costs", "pending_balance"],
    "additionalProperties": False,
}

MONEY = (
    Endpoint(
        name="zone_cost",
        paths=both("/zone/cost"),
        summary="Bytes and cost of one zone: this month and the two before, today and the two days before, or a window",
        parse=_parse_cost,
        render=_render_cost,
        schema=_COST_SCHEMA,
        parameters=(ZONE, FROM, TO),
        errors=(errors.ZONE_UNKNOWN,),
    ),
    Endpoint(
        name="customer_balance",
        paths=both("/customer/balance"),
        summary="What is left of the account's prepayment",
        parse=_parse_balance,
        render=_render_balance,
        schema=_BALANCE_SCHEMA,
        is_heavy=True,
    ),
)
