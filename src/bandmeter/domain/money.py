"""Money: decimal, exact to the end, and rounded once, half up, where a number leaves (law 7)."""

from __future__ import annotations

import decimal
from collections.abc import Iterable, Sequence
from decimal import Decimal

# Bytes have up to 20 digits, prices 19, and a division by 2^30 adds 30: 200 holds any sum of such products. If it ever
# did not, Inexact raises: money is never rounded silently.
EXACT = decimal.Context(
    prec=200,
    traps=[decimal.Inexact, decimal.InvalidOperation, decimal.DivisionByZero, decimal.Overflow],
)
_ROUNDING = decimal.Context(prec=200, rounding=decimal.ROUND_HALF_UP)
NOTHING = Decimal(0)
SHARE_PLACES = 60  # of a share of an amount: more than any price times bytes has, so that only the dividing cuts


def add(a: Decimal, b: Decimal) -> Decimal:
    """The exact sum. Python's `+` would round to 28 digits."""
    return EXACT.add(a, b)


def subtract(a: Decimal, b: Decimal) -> Decimal:
    """The exact difference."""
    return EXACT.subtract(a, b)


def shares(amount: Decimal, weights: Sequence[int]) -> list[Decimal]:
    """`amount` divided in the ratio of whole weights, of which one at least is above 0: exact, and adding up to it.

    A share is cut behind SHARE_PLACES; what the cuts leave is added to that of the largest weight, the first of those.
    """
    units, whole = _units(amount), sum(weights)
    parts = [units * weight // whole for weight in weights]
    parts[weights.index(max(weights))] += units - sum(parts)
    return [EXACT.scaleb(Decimal(part), -SHARE_PLACES) for part in parts]


def ratio(amounts: Iterable[Decimal]) -> list[int]:
    """Amounts as whole weights."""
    return list(map(_units, amounts))


def _units(amount: Decimal) -> int:
    return int(EXACT.to_integral_exact(EXACT.scaleb(amount, SHARE_PLACES)))


def rounded(amount: Decimal, places: int) -> Decimal:
    """`amount` to that many decimal places, half away from zero, without trailing zeros: for one that leaves."""
    value = amount.quantize(Decimal(1).scaleb(-places), context=_ROUNDING)
    if value == value.to_integral_value():
        return Decimal(int(value))  # never 1E+3, never -0
    return value.normalize(_ROUNDING)
