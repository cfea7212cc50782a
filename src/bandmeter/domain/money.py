"""Money: decimal, exact to the end, and rounded once, half up, where a number leaves (law 7)."""

from __future__ import annotations

import decimal
from decimal import Decimal

# Bytes have up to 20 digits, prices 19, and a division by 2^30 adds 30: 200 holds any sum of such products. If it ever
# did not, Inexact raises: money is never rounded silently.
EXACT = decimal.Context(
    prec=200,
    traps=[decimal.Inexact, decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
)
_ROUNDING = decimal.Context(prec=200, rounding=decimal.ROUND_HALF_UP)
NOTHING = Decimal(0)


def add(a: Decimal, b: Decimal) -> Decimal:
    """The exact sum. Python's `+` would round to 28 digits."""
    return EXACT.add(a, b)


def subtract(a: Decimal, b: Decimal) -> Decimal:
    """The exact difference."""
    return EXACT.subtract(a, b)


def rounded(amount: Decimal, places: int) -> Decimal:
    """`amount` to that many decimal places, half away from zero, without trailing zeros: for one that leaves."""
    value = amount.quantize(Decimal(1).scaleb(-places), context=_ROUNDING)
    if value == value.to_integral_value():
        return Decimal(int(value))  # never 1E+3, never -0
    return value.normalize(_ROUNDING)
