"""What every endpoint of the dialect shares: dates, windows, error bodies, JSON."""

from __future__ import annotations

import datetime as dt
import functools
import re
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from bandmeter.domain import errors
from bandmeter.domain.contracts import Call, Parameter, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span, ceil_to, day_start, floor_to, month_span
from bandmeter.domain.questions import SPAN_SECONDS_MAX
from bandmeter.domain.tenancy import ZONE_NAME

encode = msgspec.json.Encoder(decimal_format="number").encode
DAY = int(Resolution.DAY)
SPAN_DAYS_MAX = SPAN_SECONDS_MAX // DAY


def both(path: str) -> tuple[str, ...]:
    """A path in its two forms; the seed uses both."""
    return path, f"/api{path}"


def reply(body: Any) -> Reply:
    """A success. No x-brd-error or x-luminati-error, which clients take as failure even empty."""
    return Reply(encode(body))


# ---------------------------------------------------------------- errors

_HTML = "text/html; charset=utf-8"
_RETRY_AFTER_SECONDS = "60"  # [ours] long enough for a bucket of any usual limiter to refill
# Code → status and sentence; "" takes the error's own, which names the parameter. Sentences [live] where they could be.
_ERRORS = {
    errors.KEY_MISSING: (401, "User authentication is required"),
    errors.KEY_INVALID: (401, "Invalid credentials"),
    errors.SCOPE_MISSING: (403, "Your API key lacks the required permissions for this action."),
    errors.PARAMETER_MISSING: (400, ""),
    errors.PARAMETER_INVALID: (400, ""),
    errors.BODY_TOO_LARGE: (413, ""),
    errors.BODY_LATE: (408, ""),
    errors.ZONE_UNKNOWN: (422, "Zone not found"),
    errors.ACCOUNT_UNKNOWN: (401, "Invalid credentials"),
    errors.ROUTE_UNKNOWN: (404, "Not Found"),
    errors.METHOD_UNKNOWN: (405, "Method Not Allowed"),
    errors.RATE_LIMITED: (429, "Too Many Requests"),
    errors.UNAVAILABLE: (503, "Service Unavailable"),
    errors.FAILURE: (500, "Internal Server Error"),
}
_ERROR_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": _RETRY_AFTER_SECONDS}}


def render_error(error: BandmeterError) -> Reply:
    """A sentence as text/html, not JSON [live]. Nothing of the caller's is echoed, so nothing needs escaping."""
    status, sentence = _ERRORS.get(error.code, _ERRORS[errors.FAILURE])
    return Reply((sentence or error.sentence).encode(), status, _HTML, _ERROR_HEADERS.get(status, {}))


# ---------------------------------------------------------------- dates

# One expression is both what is parsed and what the OpenAPI document shows. Real calendar days of 1970 to 2999 only, so
# that no edge, offset or default can leave the calendar. ISO 8601 has an extended form with `-` and `:` and a basic one
# without; a date and its time are of one form.
_YEAR = r"(?:19[7-9][0-9]|2[0-9]{3})"
_LEAP_YEAR = r"(?:19(?:[79][26]|8[048])|2[048]00|2[0-9](?:0[48]|[2468][048]|[13579][26]))"
FRACTION_DIGITS_MAX = 38  # the longest form then has the parameter's 64 characters
# A space for the plus, which a query string that was not percent-encoded turns it into.
_OFFSET = r"(?:[Zz]|[+ -](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)"


def _form(dash: str, colon: str) -> str:
    """A date, alone or with Z or with a time; 24:00 is the end of its day."""
    month_day = (
        rf"(?:(?:0[13578]|1[02]){dash}(?:0[1-9]|[12][0-9]|3[01])"
        rf"|(?:0[469]|11){dash}(?:0[1-9]|[12][0-9]|30)"
        rf"|02{dash}(?:0[1-9]|1[0-9]|2[0-8]))"
    )
    date = rf"(?:{_YEAR}{dash}{month_day}|{_LEAP_YEAR}{dash}02{dash}29)"
    seconds = rf"{colon}[0-5][0-9](?:[.,][0-9]{{1,{FRACTION_DIGITS_MAX}}})?"
    no_seconds = rf"{colon}00(?:[.,]0{{1,{FRACTION_DIGITS_MAX}}})?"
    time = rf"(?:(?:[01][0-9]|2[0-3])(?:{colon}[0-5][0-9](?:{seconds})?)?|24(?:{colon}00(?:{no_seconds})?)?)"
    return rf"{date}(?:[Zz]|[Tt ]{time}{_OFFSET}?)?"


DATE_PATTERN = f"^(?:{_form('-', ':')}|{_form('', '')})$"
_DATE = re.compile(DATE_PATTERN.removesuffix("$"))
# The parts of what fits: year, month, day, clock, fraction, offset.
_PARTS = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:[Tt ]([\d:]+)(?:[.,](\d+))?)?(.*)")
_TAKES = (
    "takes a date from 1970 to 2999: YYYY-MM-DD or ISO 8601 such as 2026-11-22T09:30:00Z or 2026-11-22T09:30+02:00."
)
DATE_SCHEMA = {"type": "string", "pattern": DATE_PATTERN, "maxLength": 64}


def _date_parameter(name: str, description: str) -> Parameter:
    return Parameter(name, DATE_SCHEMA, f"{description} {_TAKES[0].upper()}{_TAKES[1:]} Without an offset: UTC.")


FROM = _date_parameter("from", "Start of the window; a time inside a day goes down to the day's edge.")
TO = _date_parameter("to", "End of the window, exclusive; a time inside a day goes up to the next day's edge.")


class Moment(NamedTuple):
    """A point in time: Unix seconds and, apart so that nothing is rounded, the fraction of one."""

    second: int
    fraction: Decimal = Decimal(0)

    @property
    def floor(self) -> int:
        """The edge of the day that holds it."""
        return floor_to(self.second, Resolution.DAY)

    @property
    def ceil(self) -> int:
        """The first edge of a day that is not before it."""
        return ceil_to(self.second + bool(self.fraction), Resolution.DAY)


def read_date(call: Call, name: str) -> Moment | None:
    """The parameter's moment, None when it was not sent; `parameter_invalid` for what is no date."""
    text = call.parameters.get(name)
    return None if text is None else parse_date(name, text)


def parse_date(name: str, text: object) -> Moment:
    """The moment that `text` writes; `parameter_invalid` names the parameter when it is no date."""
    if not isinstance(text, str) or not _DATE.fullmatch(text):
        raise BandmeterError(errors.PARAMETER_INVALID, f"{name} {_TAKES}")
    return _moment(text)


def _moment(text: str) -> Moment:
    year, month, day, clock, fraction, offset = _PARTS.fullmatch(text).groups()  # type: ignore[union-attr]
    clock = (clock or "").replace(":", "").ljust(6, "0")
    second = int(dt.datetime(int(year), int(month), int(day), tzinfo=dt.UTC).timestamp())
    second += int(clock[:2]) * 3600 + int(clock[2:4]) * 60 + int(clock[4:])
    return Moment(second - _offset_seconds(offset), Decimal(f"0.{fraction or 0}"))


def _offset_seconds(offset: str) -> int:
    if offset in {"", "Z", "z"}:
        return 0
    digits = offset[1:].replace(":", "").ljust(4, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return -seconds if offset[0] == "-" else seconds


def window(start: Moment, end: Moment) -> Span:
    """Whole days around [start, end), so that no traffic that was asked for is left out [ours]."""
    if start > end:
        raise BandmeterError(errors.PARAMETER_INVALID, "from must not be after to.")
    span = Span(start.floor, end.ceil)
    if span.end - span.start > SPAN_SECONDS_MAX:
        raise BandmeterError(errors.PARAMETER_INVALID, f"from and to may be at most {SPAN_DAYS_MAX} days apart.")
    return span


@functools.lru_cache(maxsize=64)  # a day asks for a handful; the bound is for replays of many days
def back_buckets(today: int) -> dict[str, Span]:
    """The vendor's relative buckets on the day that starts at `today`, oldest month first [seed]."""
    months = {f"back_m{n}": month_span(today, -n) for n in (2, 1, 0)}
    days = {f"back_d{n}": Span(today - n * DAY, today - n * DAY + DAY) for n in (2, 1, 0)}
    return months | days


def today_of(call: Call) -> int:
    """00:00 UTC of the day of the request."""
    return day_start(call.now_ms // 1000)


# ---------------------------------------------------------------- stamps and zones


def iso_ms(ms: int) -> str:
    """ISO 8601 with milliseconds and Z."""
    return f"{dt.datetime.fromtimestamp(ms // 1000, dt.UTC).isoformat()[:19]}.{ms % 1000:03}Z"


@functools.lru_cache(maxsize=1024)  # edges of days, of which a window of 800 days around now has about as many
def iso(second: int) -> str:
    """ISO 8601 with milliseconds and Z, of Unix seconds."""
    return iso_ms(second * 1000)


ZONE = Parameter(
    "zone",
    {"type": "string", "minLength": 1, "maxLength": 253, "pattern": f"^{ZONE_NAME.pattern}$"},
    "Name of a zone of the key's account.",
    required=True,
)


def read_zone(call: Call) -> str:
    """The zone's name; `parameter_missing` when there is none."""
    name = call.parameters.get("zone")
    if not name:
        raise BandmeterError(errors.PARAMETER_MISSING, "Missing zone parameter")
    return name


# ---------------------------------------------------------------- bodies


def read_body(call: Call) -> dict[str, Any]:
    """The fields of the JSON object in the body, whatever its Content-Type; `parameter_invalid` when there is none.

    Of a field that is there twice the last counts, as in most readers of JSON.
    """
    try:
        fields = msgspec.json.decode(call.body)
    except (ValueError, RecursionError):  # ValueError: no JSON, or no UTF-8; RecursionError: thousands of brackets
        fields = None
    if not isinstance(fields, dict):
        raise BandmeterError(errors.PARAMETER_INVALID, "The body takes a JSON object, in UTF-8.")
    return fields
