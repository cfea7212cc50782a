"""Price plan `per_gb`: every byte costs the same."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from bandmeter.domain import errors
from bandmeter.domain.contracts import Price
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.money import EXACT, rounded
from bandmeter.domain.usage import Counters

UNIT_BYTES = {"GB": Decimal(10**9), "GiB": Decimal(2**30)}
PRICE_MAX = Decimal(9_999_999)  # of a unit, which any currency fits into
PLACES_MAX = 12  # a price per byte to the cent, and finer
NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?")  # a small JSON number may carry an exponent
FIELDS = {
    "price": 'a decimal from 0 to 9999999 with up to 12 places, best as a string: "0.42"',
    "unit": '"GB" (10^9 bytes, the default) or "GiB" (2^30 bytes)',
}


class Plan(NamedTuple):
    """A checked plan: `price` of one `unit`, in the account's currency."""

    price: Decimal
    unit: str


def parse(fields: Mapping[str, Any]) -> Plan:
    """The plan's JSON as a plan; `input_invalid` names the field that cannot be used and what it takes."""
    for name in fields:
        if name not in FIELDS and name != "plan":
            raise BandmeterError(
                errors.INPUT_INVALID,
                f"{name[:80]!r} is no field of a per_gb plan: use {' and '.join(FIELDS)}.",
            )
    if "price" not in fields:
        raise _invalid("price")
    unit = fields.get("unit", "GB")
    if not isinstance(unit, str) or unit not in UNIT_BYTES:
        raise _invalid("unit")
    return Plan(_price(fields["price"]), unit)


def _price(value: object) -> Decimal:
    """A JSON number may arrive as a float: its shortest spelling is what its author wrote."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        raise _invalid("price")
    if isinstance(value, int) and not 0 <= value <= PRICE_MAX:
        raise _invalid("price")  # before str(), which refuses thousands of digits in its own way
    text = str(value)
    if not NUMBER.fullmatch(text):
        raise _invalid("price")
    price = EXACT.create_decimal(text)
    if price > PRICE_MAX or price != rounded(price, PLACES_MAX):
        raise _invalid("price")
    return price


def _invalid(field: str) -> BandmeterError:
    return BandmeterError(errors.INPUT_INVALID, f"{field} of a per_gb plan takes {FIELDS[field]}.")


def cost(plan: Plan, counters: Counters) -> Decimal:
    """The exact cost of both directions' bytes."""
    traffic = Decimal(counters.bytes_up + counters.bytes_down)
    return EXACT.divide(EXACT.multiply(traffic, plan.price), UNIT_BYTES[plan.unit])


PER_GB = Price(name="per_gb", unit="bytes", fields=FIELDS, parse=parse, cost=cost)
