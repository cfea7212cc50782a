"""Sums of columns whose values fit 64 bits, and whose sum may not: SQLite refuses those, so each has two halves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_BITS = 32
_LOW = (1 << _BITS) - 1


def halves(column: str, name: str = "") -> str:
    """SQL for a sum's two halves, called `high_NAME` and `low_NAME` where there is a name."""
    high, low = (f" AS {half}_{name}" if name else "" for half in ("high", "low"))
    return f"coalesce(sum({column} >> {_BITS}), 0){high}, coalesce(sum({column} & {_LOW}), 0){low}"


def is_positive(name: str) -> str:
    """SQL for whether such a sum is more than 0."""
    high = f"high_{name} + (low_{name} >> {_BITS})"
    return f"({high} > 0 OR ({high} = 0 AND low_{name} & {_LOW}))"


def joined(values: Sequence[int]) -> list[int]:
    """The sums, of two halves each."""
    return [(high << _BITS) + low for high, low in zip(values[::2], values[1::2], strict=True)]
