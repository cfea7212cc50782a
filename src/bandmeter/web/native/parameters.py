"""The parameters of the native API: what each takes, as the OpenAPI document shows it and as it is read."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from bandmeter.domain import errors, localtime
from bandmeter.domain.contracts import Call, Parameter
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span, Unit
from bandmeter.domain.tenancy import ACCOUNT_ID, ZONE_NAME
from bandmeter.domain.usage import DIMENSIONS, Side
from bandmeter.web.guard import VALUE_LENGTH_MAX
from bandmeter.web.native import cursor, rates, tables

LIMIT_DEFAULT, LIMIT_MAX = 1_000, 10_000  # rows of a page; 10,000 are about 2 MB of JSON
NAMES_MAX = 100  # of a list; a longer one is better asked for without a filter, or in several calls
RATES_MAX = 10
TOTAL = "total"
UNITS = {str(unit): unit for unit in Unit}
HOST = "host"
GROUPS = ("account", "zone", HOST, *DIMENSIONS)
# Days that one question may span: a page reads the whole span of its first zone anew.
DAYS_MAX = {Unit.FIVE_MINUTES: 93, Unit.HOUR: 400}

_YEAR_DAY = r"(19[7-9][0-9]|2[0-9]{3})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.0{1,9})?"
_OFFSET = r"(Z|[+ -]([01][0-9]|2[0-3]):[0-5][0-9])"  # a space for the plus of a query that was not encoded
TIME_PATTERN = f"^{_YEAR_DAY}(T{_CLOCK}{_OFFSET})?$"
_TIME = re.compile(TIME_PATTERN)
_HOST = re.compile(r"[A-Za-z0-9._:%\[\]-]{1,253}")


def _listed(pattern: str, most: int = NAMES_MAX) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}(,{pattern}){{0,{most - 1}}}$", "maxLength": VALUE_LENGTH_MAX}


def _names(pattern: re.Pattern[str]) -> str:
    return pattern.pattern


ACCOUNTS = Parameter(
    "accounts", _listed(_names(ACCOUNT_ID)), "Only these accounts, comma-separated; an account's key has but its own."
)
ZONES = Parameter("zones", _listed(_names(ZONE_NAME)), "Only these zones, comma-separated.")
LIMIT = Parameter(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT},
    "The most rows of a page.",
)
CURSOR = Parameter(
    "cursor",
    {"type": "string", "pattern": "^[A-Za-z0-9_-]+$", "maxLength": cursor.LENGTH_MAX},
    "`next` of the page before, sent with the same other parameters.",
)
FORMAT = Parameter(
    "format", {"type": "string", "enum": list(tables.MEDIA_TYPES)}, "The form of the answer; wins over Accept."
)
_TIME_SCHEMA = {"type": "string", "pattern": TIME_PATTERN}
_TIME_TAKES = "RFC 3339, or a date: its midnight in `timezone`."
FROM = Parameter(
    "from",
    _TIME_SCHEMA,
    f"Start, inclusive. {_TIME_TAKES} Without it: the first of the month before the one in which the period ends.",
)
TO = Parameter("to", _TIME_SCHEMA, f"End, exclusive. {_TIME_TAKES} Without it: the end of the bucket that runs now.")
TIMEZONE = Parameter(
    "timezone",
    {"type": "string", "maxLength": localtime.NAME_LENGTH_MAX, "default": localtime.UTC},
    "An IANA time zone, by whose clock hours, days and months are cut.",
)
RESOLUTION = Parameter(
    "resolution",
    {"type": "string", "enum": [*UNITS, TOTAL], "default": str(Unit.DAY)},
    "The length of a bucket; `from` and `to` must lie on its edges (`total`: on 5 minutes).",
)
SIDE = Parameter(
    "side",
    {"type": "string", "enum": [str(side) for side in Side]},
    "Whose exchange; without it, what each zone bills.",
)
GROUP_BY = Parameter(
    "group_by",
    {"type": "string", "pattern": f"^(({'|'.join(GROUPS)})(,({'|'.join(GROUPS)})){{0,{len(GROUPS) - 1}}})?$"},
    "What to split rows by, comma-separated; empty: nothing. Without it: `zone`, for an operator's key `account,zone`. "
    "`host`, as the filter `hosts`, goes with resolution day, month or total, in UTC, and not with a rate, network, "
    "scheme, ip_version, access or pool.",
)
RATE = Parameter(
    "rate",
    _listed(rates.PATTERN, RATES_MAX),
    "Rates in bits/s to add, comma-separated: `average`, `peak`, `p0` to `p100`, of 5-minute samples, idle ones as 0.",
)
FILTERS = tuple(
    Parameter(
        dimension.name,
        _listed(f"({'|'.join(dimension.values)})", len(dimension.values)),
        f"Only traffic of this {dimension.name.replace('_', ' ')}; several comma-separated.",
    )
    for dimension in DIMENSIONS.values()
)
HOSTS = Parameter(
    "hosts",
    _listed(_HOST.pattern),
    "Only traffic with these target hosts, comma-separated; `other`: with those that are not kept by host.",
)
USAGE = (ACCOUNTS, ZONES, HOSTS, FROM, TO, TIMEZONE, RESOLUTION, SIDE, GROUP_BY, *FILTERS, RATE, LIMIT, CURSOR, FORMAT)


# ---------------------------------------------------------------- reading


def refuse(parameter: Parameter, sentence: str) -> NoReturn:
    """Raise `parameter_invalid`."""
    raise BandmeterError(errors.PARAMETER_INVALID, f"{parameter.name} {sentence}.")


def read_list(call: Call, parameter: Parameter, most: int = NAMES_MAX) -> tuple[str, ...] | None:
    """The entries of a comma-separated list, each once; None when it was not sent."""
    text = call.parameters.get(parameter.name)
    if text is None:
        return None
    entries = text.split(",") if text else []
    if len(entries) > most:
        refuse(parameter, f"takes at most {most} entries")
    if "" in entries:
        refuse(parameter, "has an empty entry")
    return tuple(dict.fromkeys(entries))


def read_names(call: Call, parameter: Parameter, pattern: re.Pattern[str]) -> tuple[str, ...] | None:
    """A list of names, at least one, none of which is impossible."""
    names = read_list(call, parameter)
    if names is not None and (not names or not all(pattern.fullmatch(name) for name in names)):
        refuse(parameter, f"takes 1 to {NAMES_MAX} names, comma-separated")
    return names


def read_hosts(call: Call) -> frozenset[str] | None:
    """The target hosts to keep, as they are stored; None: all."""
    names = read_names(call, HOSTS, _HOST)
    return None if names is None else frozenset(name.lower() for name in names)


def check_by_host(call: Call, groups: Iterable[str], unit: Unit | None, timezone: str) -> None:
    """Refuse what cannot be asked by host: what is kept of one are the sums of UTC days."""
    if unit not in (Unit.DAY, Unit.MONTH, None):
        refuse(RESOLUTION, "takes day, month or total by host: hosts are kept by day")
    if timezone != localtime.UTC:
        refuse(TIMEZONE, "takes UTC by host: hosts are kept by UTC day")
    if RATE.name in call.parameters:
        refuse(RATE, "cannot be had by host: hosts are kept by day, and a rate is of 5 minutes")
    for name in DIMENSIONS:
        if name in call.parameters or name in groups:
            refuse(GROUP_BY, f"cannot take host with {name}: hosts are kept without it")


def read_choices(call: Call, parameter: Parameter, choices: Iterable[str]) -> tuple[str, ...] | None:
    """A list whose entries all are among `choices`."""
    known = tuple(choices)
    entries = read_list(call, parameter, len(known))
    if entries is not None and not set(entries) <= set(known):
        refuse(parameter, f"takes a comma-separated list of {', '.join(known)}")
    return entries


def read_choice(call: Call, parameter: Parameter) -> str | None:
    """One of the parameter's values, else its default."""
    choices = parameter.schema["enum"]
    value: str | None = call.parameters.get(parameter.name, parameter.schema.get("default"))
    if value is not None and value not in choices:
        refuse(parameter, f"takes one of {', '.join(choices)}")
    return value


def read_limit(call: Call) -> int:
    """The most rows of a page."""
    text = call.parameters.get("limit", str(LIMIT_DEFAULT))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= LIMIT_MAX):  # noqa: PLR2004
        refuse(LIMIT, f"takes a number from 1 to {LIMIT_MAX}")
    return int(text)


def read_form(call: Call) -> str:
    """`format`, else what the Accept header likes best; raises `format_unavailable`."""
    return read_choice(call, FORMAT) or tables.choose(call.accept)


def read_rates(call: Call) -> tuple[rates.Rate, ...]:
    """The rates to add, in their order."""
    names = read_list(call, RATE, RATES_MAX)
    found = [rates.parse(name) for name in names or ()]
    if names == () or None in found:
        refuse(RATE, "takes average, peak, and percentiles from p0 to p100, such as p95 or p99.9, comma-separated")
    return tuple(rate for rate in found if rate)


def read_filter(call: Call) -> Callable[[int], bool]:
    """Whether packed dimensions are wanted."""
    wanted = []
    for parameter in FILTERS:
        dimension = DIMENSIONS[parameter.name]
        values = read_choices(call, parameter, dimension.values)
        if values == ():
            refuse(parameter, f"takes at least one of {', '.join(dimension.values)}")
        if values is not None:
            wanted.append((dimension, frozenset(dimension.values.index(value) for value in values)))
    return lambda packed: all(dimension.code(packed) in codes for dimension, codes in wanted)


def read_span(call: Call, unit: Unit | None, timezone: str) -> Span:
    """From `from` to `to`, with their defaults; `unit` None: on 5 minutes. Raises `parameter_invalid`.

    The default is that of the vendor with the most clients: the month that runs, and the one before.
    """
    now_s = call.now_ms // 1000
    end = _read_time(call, TO, timezone)
    if end is None:
        end = localtime.bucket(now_s, unit or Unit.FIVE_MINUTES, timezone).end
    start = _read_time(call, FROM, timezone)
    if start is None:
        last_month = localtime.bucket(max(min(now_s, end - 1), 0), Unit.MONTH, timezone)
        start = localtime.bucket(max(last_month.start - 1, 0), Unit.MONTH, timezone).start
    if start > end:
        refuse(FROM, "must not be after to")
    return check_span(Span(start, end), unit)


def check_span(span: Span, unit: Unit | None) -> Span:
    """`span`, unless it is too long or has odd ends."""
    days = DAYS_MAX.get(unit, 0) if unit else 0
    if days and span.end - span.start > days * Resolution.DAY:
        refuse(FROM, f"and to may be at most {days} days apart at this resolution")
    if unit is None and not span.is_aligned(Resolution.FIVE_MINUTES):
        refuse(FROM, "and to must lie on an edge of 5 minutes")
    if span.start < 0 or span.end > localtime.MOMENT_MAX:
        refuse(FROM, "and to must lie between 1970 and 2999")
    return span


def _read_time(call: Call, parameter: Parameter, timezone: str) -> int | None:
    text = call.parameters.get(parameter.name)
    if text is None:
        return None
    try:
        moment = dt.datetime.fromisoformat(text.replace(" ", "+")) if _TIME.fullmatch(text) else None
    except ValueError:  # such as the 30th of February
        moment = None
    if moment is None:
        refuse(parameter, "takes a date such as 2026-11-22, or RFC 3339 such as 2026-11-22T09:30:00Z")
    return localtime.moment(moment, timezone) if moment.tzinfo is None else int(moment.timestamp())


def show_span(span: Span, timezone: str) -> dict[str, str]:
    """`from` and `to` as an answer says them."""
    return {"from": tables.show_time(span.start, timezone), "to": tables.show_time(span.end, timezone)}
