"""Rates: bits per second of a group's 5-minute samples, idle ones counting as 0."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bandmeter.domain.grid import Resolution

STEP = int(Resolution.FIVE_MINUTES)
AVERAGE, PEAK = "average", "peak"
PATTERN = r"(average|peak|p(100|[1-9]?[0-9](\.[0-9]{1,3})?))"
_SCALE = 1_000  # percentiles have up to three decimal places
_WHOLE = 100 * _SCALE


class Rate(NamedTuple):
    """One that can be asked for. `percentile` in thousandths of a percent; None: the average."""

    name: str
    percentile: int | None

    @property
    def column(self) -> str:
        """Its column in an answer."""
        return f"rate_{self.name}_bps"


def parse(text: str) -> Rate | None:
    """`average`, `peak` or `p0` to `p100`, such as `p99.9`; None for anything else."""
    if not re.fullmatch(PATTERN, text):
        return None
    if text in {AVERAGE, PEAK}:
        return Rate(text, _WHOLE if text == PEAK else None)
    whole, _, part = text[1:].partition(".")
    return Rate(text, int(whole) * _SCALE + int(part.ljust(3, "0")))


def compute(wanted: Sequence[Rate], samples: Iterable[int], count: int) -> list[int]:
    """Each rate in whole bits/s, rounded half up.

    `samples`: bytes of the 5-minute buckets with traffic; `count`: of all, with the idle ones. A percentile sorts all
    samples, drops the highest `(100 - p) %` of their number (rounded down), and takes the highest left, as bills do:
    p95 of the 8,640 samples of 30 days drops 432. p100 is the peak, p0 the lowest.
    """
    ordered = sorted(samples)
    idle = count - len(ordered)
    rates = []
    for rate in wanted:
        if rate.percentile is None:
            rates.append(_bps(sum(ordered), STEP * count))
            continue
        dropped = (_WHOLE - rate.percentile) * count // _WHOLE
        at = max(count - 1 - dropped, 0)
        rates.append(_bps(ordered[at - idle] if at >= idle else 0, STEP))
    return rates


def _bps(size: int, seconds: int) -> int:
    return (16 * size + seconds) // (2 * seconds)
