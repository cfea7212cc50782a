"""The store looked at from within: law 2 for each source, law 5 on days that are drawn.

Law 2: received = counted + duplicate + no_target + unattributed + rejected.
Law 5: an hour is the sum of its 5-minute buckets, a day of its hours.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable

from bandmeter.domain.contracts import Store
from bandmeter.domain.grid import Resolution
from bandmeter.domain.tenancy import Zone
from bandmeter.verify.findings import Findings

SOURCES = "sources"
DAYS = "days of zones"
ZONES = "zones"


def check_sources(store: Store, findings: Findings) -> None:
    """Law 2, for every source."""
    for source in store.sources():
        findings.looked_at(SOURCES)
        if not source.outcomes.adds_up:
            received, *parts = source.outcomes
            findings.differs(
                f"source {source.number} ({source.path}): received {received}, accounted for {sum(parts)}."
            )


def check_zones(store: Store, zones: Callable[[], Iterable[Zone]], findings: Findings) -> None:
    """Every zone that usage speaks of is in the catalog, which is asked last: it has a zone before its usage comes."""
    numbers = list(itertools.takewhile(lambda number: number > 0, store.numbers()))
    known = {zone.number for zone in zones()}
    for number in numbers:
        findings.looked_at(ZONES)
        if number not in known:
            findings.differs(f"zone number {number} has usage, and the catalog does not know it.")


def check_days(
    store: Store, draw: random.Random, count: int, findings: Findings, is_over: Callable[[], bool] = lambda: False
) -> None:
    """Law 5, for `count` days, each of a zone or identity that is drawn, as the day is; fewer when `is_over` says so.

    A day takes about a millisecond, however large the store is, and whoever writes meanwhile is not held up.
    """
    for _ in range(count):
        number = _draw_number(store, draw)
        if number is None or is_over():
            return
        extent = store.extent(number)
        if extent is None:  # its history has just been claimed
            continue
        day = extent.start + Resolution.DAY * draw.randrange((extent.end - extent.start) // Resolution.DAY)
        findings.looked_at(DAYS)
        for sentence in store.check_day(number, day):
            findings.differs(sentence)


def _draw_number(store: Store, draw: random.Random) -> int | None:
    ends = store.number_ends()
    if ends is None:
        return None
    low, high = ends
    if low < 0 < high:  # identities may be many, so zones are drawn as often
        low, high = draw.choice(((low, -1), (1, high)))
    return next(store.numbers(draw.randint(low, high)), None)
