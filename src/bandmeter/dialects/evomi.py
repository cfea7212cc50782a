"""The Evomi dialect: GET /public/usage, the traffic of a product, and GET /public, the account's products.

Sources, as marked below: [seed] the vendor's own pages, [live] seen in a real account's answer or in public client
code, [ours] published by nobody.
"""

from __future__ import annotations

import datetime as dt
import functools
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from bandmeter.domain import errors
from bandmeter.domain.contracts import Call, Dialect, Endpoint, Parameter, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span, floor_to
from bandmeter.domain.money import rounded
from bandmeter.domain.questions import Questions, UsageAnswer, UsageQuestion, ZonesQuestion
from bandmeter.domain.tenancy import Zone, ZoneStatus
from bandmeter.domain.usage import POOL

_ENCODE = msgspec.json.Encoder(decimal_format="number").encode


class Product(NamedTuple):
    """A product: the vendor's name for it, and the parts that its figures are split into."""

    name: str
    parts: tuple[str, ...] = ()


class Period(NamedTuple):
    """The last `length` buckets, the running one included."""

    resolution: Resolution
    length: int


PRODUCTS = {
    "rp": Product("Premium Residential"),
    "rpc": Product("Residential", POOL.values),  # `default` and `extra`: the record's pool
    "sdc": Product("Static Datacenter"),
    "mp": Product("Mobile Proxies"),
}
ALIASES = {"dcp": "sdc"}  # the seed lists both for one product; the balance page says `dcp` [live]
PERIODS = {
    "24h": Period(Resolution.HOUR, 24),
    "3d": Period(Resolution.DAY, 3),
    "7d": Period(Resolution.DAY, 7),
}
PERIOD_DEFAULT = "3d"
REQUESTS = Period(Resolution.HOUR, 12)
PLACES = 2  # of a figure in MB

# ---------------------------------------------------------------- errors

_RETRY_AFTER_SECONDS = "60"  # [ours] a limit counts by the minute
# Code → status and sentence; "" takes the error's own.
_ERRORS = {
    errors.KEY_MISSING: (401, "API key is required: send it in the header x-apikey."),
    errors.KEY_INVALID: (401, "Invalid API key."),
    errors.SCOPE_MISSING: (403, ""),
    errors.PARAMETER_MISSING: (400, ""),
    errors.PARAMETER_INVALID: (400, ""),
    errors.ZONE_UNKNOWN: (400, ""),
    errors.ACCOUNT_UNKNOWN: (401, "Invalid API key."),
    errors.ROUTE_UNKNOWN: (404, "Not found."),
    errors.METHOD_UNKNOWN: (405, "Method not allowed."),
    errors.RATE_LIMITED: (429, "Too many requests."),
    errors.UNAVAILABLE: (503, "Service unavailable: try again later."),
    errors.FAILURE: (500, "Internal server error."),
}
_ERROR_HEADERS = {429: {"Retry-After": _RETRY_AFTER_SECONDS}}


def render_error(error: BandmeterError) -> Reply:
    """`{"success": false, "error": "sentence"}` [live field]."""
    status, sentence = _ERRORS.get(error.code, _ERRORS[errors.FAILURE])
    body = _ENCODE({"success": False, "error": sentence or error.sentence})
    return Reply(body, status, headers=_ERROR_HEADERS.get(status, {}))


# ---------------------------------------------------------------- questions


def _check_verified(call: Call) -> None:
    """A personal key needs its account's e-mail address verified [seed]; a team's key speaks for the team."""
    if call.account.kind == "personal" and not call.account.email_verified:
        raise BandmeterError(errors.SCOPE_MISSING, "The e-mail address of this account is not verified: verify it.")


def _read_product(call: Call) -> str:
    """The product as it was asked for."""
    asked, takes = call.parameters.get("product"), ", ".join((*PRODUCTS, *ALIASES))
    if not asked:
        raise BandmeterError(errors.PARAMETER_MISSING, f"product is missing: it takes one of {takes}.")
    if asked not in PRODUCTS and asked not in ALIASES:
        raise BandmeterError(errors.PARAMETER_INVALID, f"product takes one of {takes}.")
    return asked


def _read_period(call: Call) -> str:
    asked = call.parameters.get("period", PERIOD_DEFAULT)
    if asked not in PERIODS:
        raise BandmeterError(errors.PARAMETER_INVALID, f"period takes one of {', '.join(PERIODS)}.")
    return asked


def _span(call: Call, period: Period) -> Span:
    """The UTC buckets that end with the running one."""
    end = floor_to(call.now_ms // 1000, period.resolution) + period.resolution
    return Span(end - period.length * period.resolution, end)


def _ask_usage(call: Call) -> Questions:
    _check_verified(call)
    asked, period = _read_product(call), PERIODS[_read_period(call)]
    product = ALIASES.get(asked, asked)
    return Questions(
        tuple(
            UsageQuestion(call.account.id, _span(call, part), resolution=part.resolution, product=product)
            for part in (period, REQUESTS)
        )
    )


def _ask_zones(call: Call) -> ZonesQuestion:
    _check_verified(call)
    return ZonesQuestion(call.account.id)


# ---------------------------------------------------------------- answers


def megabytes(count: int) -> Decimal:
    """Bytes in MB of 10^6 bytes, half up to 2 places: each figure from its own bytes, never from rounded ones."""
    return rounded(Decimal(count).scaleb(-6), PLACES)


@functools.lru_cache(maxsize=1024)  # the hours and days of every period have 41 at a time
def stamp(second: int) -> str:
    """`2026-05-26 00:00`, UTC."""
    return dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%d %H:%M")


def _pools(answer: UsageAnswer) -> dict[tuple[int, str], int]:
    """(bucket, pool) → bytes of all zones."""
    sums: dict[tuple[int, str], int] = {}
    for used in answer.zones:
        columns = used.columns
        for bucket, dimensions, up, down in zip(
            columns.bucket, columns.dimensions, columns.bytes_up, columns.bytes_down, strict=True
        ):
            key = (bucket, POOL.value(dimensions))
            sums[key] = sums.get(key, 0) + up + down
    return sums


def _requests(answer: UsageAnswer) -> dict[str, int]:
    """Hours without requests are absent [seed: none at all gives {}]."""
    sums: dict[int, int] = {}
    for used in answer.zones:
        for bucket, requests in zip(used.columns.bucket, used.columns.requests, strict=True):
            sums[bucket] = sums.get(bucket, 0) + requests
    return {stamp(bucket): sums[bucket] for bucket in sorted(sums) if sums[bucket]}


def _figures(sums: Mapping[tuple[int, str], int], buckets: Iterable[int], parts: Iterable[str]) -> dict[str, Decimal]:
    """Each part's and the total of those buckets, in MB."""
    chosen = list(buckets)
    by_pool = {pool: sum(sums.get((bucket, pool), 0) for bucket in chosen) for pool in POOL.values}
    return {part: megabytes(by_pool[part]) for part in parts} | {"total": megabytes(sum(by_pool.values()))}


def _thousandth(amount: Decimal) -> Decimal:
    return amount.scaleb(-3) if amount else amount


def _render_usage(call: Call, question: Any, answer: list[UsageAnswer]) -> Reply:
    carried, requested = answer
    asked, period = _read_product(call), _read_period(call)
    product, (span, resolution) = PRODUCTS[ALIASES.get(asked, asked)], _window(question)
    sums, buckets = _pools(carried), range(span.start, span.end, resolution)
    total = _figures(sums, buckets, ())["total"]
    # Buckets without traffic are there with zeros [ours: a chart wants them].
    stats = {stamp(bucket): _figures(sums, (bucket,), product.parts) for bucket in buckets}
    shown = {"name": product.name, "code": asked, "totalBandwidth": total, "stats": stats}
    meta = {
        "period": period,
        "product": asked,
        "duration": period,
        "granularity": "hour" if resolution == Resolution.HOUR else "day",
        "ownership_scope": call.account.kind,
        "auth_type": call.account.kind,
        "proxy_username": call.account.proxy_username,
        "bandwidth_unit": "MB",
        "total_bandwidth_mb": total,
        "total_bandwidth_gb": _thousandth(total),
        "total_bandwidth_tb": _thousandth(_thousandth(total)),
    }
    data = {"bandwidth": {"products": [shown]}, "requests": _requests(requested)}
    return Reply(_ENCODE({"success": True, "data": data, "meta": meta}))


def _window(question: Questions) -> tuple[Span, Resolution]:
    carried: Any = question.questions[0]
    return carried.span, carried.resolution


def _render_products(call: Call, _question: object, answer: list[Zone]) -> Reply:
    """The products of the account's zones, under the words of this page; no passwords, which a meter does not know."""
    words = {code: alias for alias, code in ALIASES.items()}
    present = {zone.product for zone in answer if zone.status is not ZoneStatus.DELETED}
    products = {
        words.get(code, code): {"username": call.account.proxy_username} for code in PRODUCTS if code in present
    }
    return Reply(_ENCODE({"success": True, "products": products}))


# ---------------------------------------------------------------- the table


def _object(properties: Mapping[str, Any], *optional: str) -> dict[str, Any]:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required, "additionalProperties": False}


_TEXT = {"type": "string"}
_AMOUNT = {"type": "number", "minimum": 0}
_CODE = {"type": "string", "enum": [*PRODUCTS, *ALIASES]}
_PERIOD = {"type": "string", "enum": list(PERIODS)}
_KIND = {"type": "string", "enum": ["personal", "team"]}
_SUCCESS = {"type": "boolean", "const": True}
_FIGURES = _object({**dict.fromkeys(POOL.values, _AMOUNT), "total": _AMOUNT}, *POOL.values)
_SHOWN = _object(
    {
        "name": _TEXT,
        "code": _CODE,
        "totalBandwidth": _AMOUNT,
        "stats": {"type": "object", "additionalProperties": _FIGURES},
    }
)
_REQUESTS = {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}}
_META = {
    "period": _PERIOD,
    "product": _CODE,
    "duration": _PERIOD,
    "granularity": {"type": "string", "enum": ["hour", "day"]},
    "ownership_scope": _KIND,
    "auth_type": _KIND,
    "proxy_username": _TEXT,
    "bandwidth_unit": {"type": "string", "const": "MB"},
    "total_bandwidth_mb": _AMOUNT,
    "total_bandwidth_gb": _AMOUNT,
    "total_bandwidth_tb": _AMOUNT,
}
_USAGE_SCHEMA = _object(
    {
        "success": _SUCCESS,
        "data": _object(
            {
                "bandwidth": _object({"products": {"type": "array", "items": _SHOWN, "minItems": 1, "maxItems": 1}}),
                "requests": _REQUESTS,
            }
        ),
        "meta": _object(_META),
    }
)
_LEFT = _object({"username": _TEXT, "balance_mb": _AMOUNT}, "balance_mb")
_PRODUCTS_SCHEMA = _object({"success": _SUCCESS, "products": {"type": "object", "additionalProperties": _LEFT}})

EVOMI = Dialect(
    name="evomi",
    title="Evomi",
    endpoints=(
        Endpoint(
            name="usage",
            paths=("/public/usage",),
            summary="Traffic of a product's zones in the last hours or UTC days, and its requests of the last 12 hours",
            parse=_ask_usage,
            render=_render_usage,
            schema=_USAGE_SCHEMA,
            parameters=(
                Parameter("product", _CODE, "dcp is another word for sdc.", required=True),
                Parameter("period", _PERIOD, f"How far back; {PERIOD_DEFAULT} when not sent."),
            ),
            is_heavy=True,
            light_zones=8,  # half a millisecond
            steady_s=int(Resolution.HOUR),  # its periods end with the running hour or day
        ),
        Endpoint(
            name="products",
            paths=("/public",),
            summary="The account's products",
            parse=_ask_zones,
            render=_render_products,
            schema=_PRODUCTS_SCHEMA,
        ),
    ),
    credentials=(("header", "x-apikey"), ("query", "apikey")),
    render_error=render_error,
    prefixes=("/public",),
)
