"""POST /costs/export/json and /costs/export/csv: what each day has cost, by zone, product, type or target domain.

An amount is the exact sum of its zones' exact amounts, rounded here and once. So is an amount of `total`: it is no sum
of rounded days. A domain's part of a zone's amount is its share of what the plan bills; before the rounding, the parts
add up to the amount.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from bandmeter.dialects.brightdata.cost import PERIOD, PLACES
from bandmeter.dialects.brightdata.wire import DATE_SCHEMA, both, iso, parse_date, read_body, reply, window
from bandmeter.dialects.brightdata.zones import TYPES, WORDS
from bandmeter.domain import errors, money
from bandmeter.domain.contracts import Call, Endpoint, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.money import rounded
from bandmeter.domain.questions import DailyCostAnswer, DailyCostQuestion, TargetCostsAnswer, TargetCostsQuestion
from bandmeter.domain.tenancy import ZONE_NAME, Zone


def _name(zone: Zone) -> str:
    return zone.name


def _word(zone: Zone) -> str:
    """What GET /zone calls the plan's product, and /zone/get_active_zones the zone's type: one word for both."""
    return TYPES[zone.network]


OF_ZONES: dict[str, Callable[[Zone], str]] = {"zones": _name, "products": _word, "types": _word}
DOMAINS = "domains"
DIMENSIONS = (*OF_ZONES, DOMAINS)

# ---------------------------------------------------------------- question


class _Request(NamedTuple):
    dimension: str
    span: Span
    zones: tuple[str, ...] | None
    networks: frozenset[str] | None


def _read(call: Call) -> _Request:
    fields = read_body(call)
    dimension, span = _read_dimension(fields.get("dimension")), _read_span(fields)
    return _Request(dimension, span, *_read_filters(fields.get("filters", {})))


def _read_dimension(sent: object) -> str:
    if not isinstance(sent, str) or sent not in DIMENSIONS:
        raise BandmeterError(errors.PARAMETER_INVALID, f"dimension takes one of {', '.join(DIMENSIONS)}.")
    return sent


def _read_span(fields: Mapping[str, Any]) -> Span:
    sent = [fields.get(name) for name in ("from", "to")]
    if None in sent:
        raise BandmeterError(errors.PARAMETER_INVALID, PERIOD)
    return window(*(parse_date(name, text) for name, text in zip(("from", "to"), sent, strict=True)))


def _read_filters(sent: object) -> tuple[tuple[str, ...] | None, frozenset[str] | None]:
    """Names of zones, and networks, that every amount is of; None where nothing is filtered.

    The form is the vendor's, who publishes it for `product` alone. What is not understood is refused: an answer
    without a filter that was asked for would be a wrong number.
    """
    props = _only(sent, {"props"}).get("props", {})
    lists = {name: _whitelist(value) for name, value in _only(props, {"zone", "product", "type"}).items()}
    words = [set(lists[name]) for name in ("product", "type") if name in lists]
    if not all(chosen <= set(WORDS) for chosen in words):
        raise _unreadable()
    networks = frozenset(network for network, word in TYPES.items() if all(word in chosen for chosen in words))
    return lists.get("zone"), networks if words else None


def _only(sent: object, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(sent, dict) or not sent.keys() <= names:
        raise _unreadable()
    return sent


def _whitelist(sent: object) -> tuple[str, ...]:
    names = _only(sent, {"whitelist"}).get("whitelist")
    if not names or not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _unreadable()
    return tuple(names)


def _unreadable() -> BandmeterError:
    sentence = (
        'filters takes {} or, for any of zone, product and type, {"props": {"product": {"whitelist": ["dc"]}}};'
        f" the words of product and type are {', '.join(WORDS)}."
    )
    return BandmeterError(errors.PARAMETER_INVALID, sentence)


def _parse(call: Call) -> DailyCostQuestion | TargetCostsQuestion:
    asked = _read(call)
    kind = TargetCostsQuestion if asked.dimension == DOMAINS else DailyCostQuestion
    return kind(call.account.id, asked.span, asked.zones, asked.networks)


# ---------------------------------------------------------------- answer

_Amounts = dict[str, Decimal]  # id of the dimension → exact
_Answer = DailyCostAnswer | TargetCostsAnswer


def _add_up(call: Call, answer: _Answer) -> tuple[dict[int, _Amounts], _Amounts]:
    """The amounts of each day that has any, in order, and those of the whole window."""
    days: dict[int, _Amounts] = {}
    totals: _Amounts = {}
    for amounts, total in _parts(_read(call).dimension, answer):
        for day, more in amounts.items():
            _add(days.setdefault(day, {}), more)
        _add(totals, total)
    return dict(sorted(days.items())), totals


def _parts(dimension: str, answer: _Answer) -> Iterator[tuple[dict[int, _Amounts], _Amounts]]:
    """Each zone's amounts by day, and of the whole window."""
    if isinstance(answer, TargetCostsAnswer):
        for divided in answer.zones:
            yield divided.amounts, divided.totals
        return
    for zone, amounts, total in answer.zones:
        name = OF_ZONES[dimension](zone)
        yield {day: {name: amount} for day, amount in amounts.items()}, {name: total} if total else {}


def _add(amounts: _Amounts, more: _Amounts) -> None:
    for name, amount in more.items():
        known = amounts.get(name)
        amounts[name] = amount if known is None else money.add(known, amount)


def _rounded(amounts: _Amounts) -> _Amounts:
    return {name: rounded(amounts[name], PLACES) for name in sorted(amounts)}


def _date(day: int) -> str:
    return iso(day)[:10]


def _render_json(call: Call, _question: object, answer: _Answer) -> Reply:
    """`{}` where nothing was spent [live]."""
    days, totals = _add_up(call, answer)
    body = {_date(day): _rounded(amounts) for day, amounts in days.items()}
    return reply(body | {"total": _rounded(totals)} if totals else body)


def _render_csv(call: Call, _question: object, answer: _Answer) -> Reply:
    """A line per day and id [live]. Lines end with CR LF (RFC 4180)."""
    days, _ = _add_up(call, answer)
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(("Day", "Id", "Value"))
    writer.writerows((_date(day), *amount) for day, amounts in days.items() for amount in _rounded(amounts).items())
    return Reply(written.getvalue().encode(), content_type=_CSV)


# ---------------------------------------------------------------- schema

_CSV = "text/csv; charset=utf-8"
_AMOUNTS = {
    "type": "object",
    "additionalProperties": {"type": "number", "minimum": 0},
    "minProperties": 1,
    "description": "In the account's currency, by zone, product, type or target domain.",
}
_SCHEMA = {
    "type": "object",
    "properties": {"total": _AMOUNTS},
    "patternProperties": {"^[0-9]{4}-[0-9]{2}-[0-9]{2}$": _AMOUNTS},
    "additionalProperties": False,
}


def _whitelist_schema(item: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"whitelist": {"type": "array", "items": item, "minItems": 1}},
        "required": ["whitelist"],
        "additionalProperties": False,
    }


_ZONE = {"type": "string", "pattern": f"^{ZONE_NAME.pattern}$"}
_WORD = {"type": "string", "enum": WORDS}
_BODY = {
    "type": "object",
    "properties": {
        "dimension": {"type": "string", "enum": list(DIMENSIONS)},
        "filters": {
            "type": "object",
            "properties": {
                "props": {
                    "type": "object",
                    "properties": {
                        "zone": _whitelist_schema(_ZONE),
                        "product": _whitelist_schema(_WORD),
                        "type": _whitelist_schema(_WORD),
                    },
                    "additionalProperties": False,
                },
            },
            "additionalProperties": False,
            "description": "Which zones are counted: those that every whitelist names.",
        },
        "from": DATE_SCHEMA | {"description": "The first day, UTC."},
        "to": DATE_SCHEMA | {"description": "The day after the last one, UTC."},
    },
    "required": ["dimension", "from", "to"],
}

EXPORTS = tuple(
    Endpoint(
        name=f"costs_export_{form}",
        paths=both(f"/costs/export/{form}"),
        method="POST",
        summary=f"Cost per UTC day, by zone, product, type or target domain, as {form.upper()}",
        parse=_parse,
        render=render,
        schema=schema,
        body=_BODY,
        media_types=(media_type,),
        errors=(errors.ZONE_UNKNOWN,),
        is_heavy=True,
    )
    for form, render, schema, media_type in (
        ("json", _render_json, _SCHEMA, "application/json"),
        ("csv", _render_csv, {"type": "string"}, _CSV),
    )
)
