"""Rows out of answers: usage of some zones, added up by what a call wants to see apart."""

from __future__ import annotations

import bisect
import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from bandmeter.domain import grid, localtime
from bandmeter.domain.grid import Resolution, Span, Unit
from bandmeter.domain.questions import TargetsAnswer, TargetsQuestion, UsageAnswer, UsageQuestion
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import DIMENSIONS, Columns, Side
from bandmeter.web.native import rates
from bandmeter.web.native.chosen import Chosen
from bandmeter.web.native.parameters import FROM, HOST, refuse

if TYPE_CHECKING:
    from bandmeter.reports import Reports

COUNTERS = ("requests", "successes", "bytes_up", "bytes_down")

HOSTS_ABOUT = 100  # of a zone's day: what is kept unless somebody has set another bound
HOST_ROWS_MAX = 500_000  # that one row may mix, or one page's zones have: 150 MB
# (account, zone, bucket, values of `splits`…): unique, and in the rows' order. "" where rows are not split by it.
Key = tuple[Any, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What a call wants to see. `unit` None: one bucket for the whole span. `groups`: the columns of `group_by`.

    `by_host`: it is about target hosts, all or those in `hosts`, and not about dimensions.
    """

    span: Span
    unit: Unit | None
    timezone: str
    side: Side | None
    groups: tuple[str, ...]
    by_account: bool
    is_wanted: Callable[[int], bool]
    by_host: bool
    hosts: frozenset[str] | None
    rates: tuple[rates.Rate, ...]
    now_s: int

    @property
    def by_zone(self) -> bool:
        """Whether each row is of one zone name."""
        return "zone" in self.groups

    @property
    def splits(self) -> list[str]:
        """What is in group_by besides account and zone: dimensions, or the host."""
        return [name for name in self.groups if name in DIMENSIONS or name == HOST]

    @property
    def samples(self) -> int:
        """About how many numbers of a zone are read."""
        seconds = {None: self.span.end - self.span.start, Unit.FIVE_MINUTES: 300, Unit.HOUR: 3_600}
        if self.by_host:
            return ((self.span.end - self.span.start) // Resolution.DAY + 1) * HOSTS_ABOUT
        step = 300 if self.rates else seconds.get(self.unit, Resolution.DAY)
        return (self.span.end - self.span.start) // (step or 1) + 1


class Fresh(NamedTuple):
    """Until when usage was counted: the newest traffic of the zones that were read, and the store's last commit.

    `reported_ms`: up to when every followed source has reported all that it had; None: none is followed.
    """

    newest_ms: int | None = None
    committed_ms: int | None = None
    reported_ms: int | None = None

    def after(self, answer: UsageAnswer | TargetsAnswer) -> Fresh:
        """With another answer."""
        newest = max((ms for ms in (self.newest_ms, answer.newest_ms) if ms is not None), default=None)
        return self._replace(newest_ms=newest, committed_ms=answer.committed_ms)


class Folder:
    """Folds the zones of one call; `fresh` tells of all that it has read."""

    def __init__(self, reports: Reports, asked: Asked) -> None:
        self._reports = reports
        self._asked = asked
        self._places: dict[int, tuple[str, ...] | None] = {}
        self._edges = _edges(asked)
        self.fresh = Fresh()

    def fold(self, zones: Chosen) -> list[tuple[Key, list[int]]]:
        """Rows of all these zones: key, then counters and rates, by key."""
        asked = self._asked
        sums: dict[Key, list[int]] = {}
        if asked.by_host:
            self._add_hosts(sums, zones)
            return sorted(sums.items())
        samples: dict[Key, dict[int, int]] = {}
        for question, start in self._questions(zones):
            for zone, columns in self._read(question):
                self._add(sums, zone, columns, start)
        if asked.rates:
            for account, owned in zones:
                question = self._question(account, owned, asked.span, Unit.FIVE_MINUTES)
                for zone, columns in self._read(question):
                    self._sample(samples, zone, columns)
        return [(key, total + self._rates(key, samples.get(key, {}))) for key, total in sorted(sums.items())]

    # ------------------------------------------------------------ asking

    def _questions(self, zones: Chosen) -> Iterator[tuple[UsageQuestion, int | None]]:
        """What to ask, and the bucket into which it all goes (None: each row into its own)."""
        asked = self._asked
        for account, owned in zones:
            if asked.unit is None:
                for resolution, span in grid.pieces(asked.span):
                    yield (
                        dataclasses.replace(self._question(account, owned, span, resolution), timezone="UTC"),
                        asked.span.start,
                    )
            else:
                yield self._question(account, owned, asked.span, asked.unit), None

    def _question(
        self, account: str, zones: Sequence[Zone], span: Span, resolution: Resolution | Unit
    ) -> UsageQuestion:
        names = tuple(zone.name for zone in zones)
        return UsageQuestion(account, span, names, resolution, self._asked.side, timezone=self._asked.timezone)

    def _read(self, question: UsageQuestion) -> Iterator[tuple[Zone, Columns]]:
        answer = self._reports.answer(question)
        self.fresh = self.fresh.after(answer)
        for used in answer.zones:
            yield used.zone, used.columns

    # ------------------------------------------------------------ adding

    def _place(self, packed: int) -> tuple[str, ...] | None:
        """The row's part of the key; None for traffic that the filters leave out."""
        if packed not in self._places:
            values = tuple(DIMENSIONS[name].value(packed) for name in self._asked.splits)
            self._places[packed] = values if self._asked.is_wanted(packed) else None
        return self._places[packed]

    def _names(self, zone: Zone) -> tuple[str, str]:
        return zone.account if self._asked.by_account else "", zone.name if self._asked.by_zone else ""

    def _add(self, sums: dict[Key, list[int]], zone: Zone, columns: Columns, start: int | None) -> None:
        names = self._names(zone)
        for bucket, packed, *counters in zip(*columns, strict=True):
            place = self._place(packed)
            if place is None:
                continue
            key = (*names, bucket if start is None else start, *place)
            total = sums.get(key)
            if total is None:
                sums[key] = counters
            else:
                for n, value in enumerate(counters):
                    total[n] += value

    def _add_hosts(self, sums: dict[Key, list[int]], zones: Chosen) -> None:
        asked, count = self._asked, 0
        is_split = HOST in asked.groups
        for account, zone in ((account, zone) for account, owned in zones for zone in owned):
            answer = self._reports.answer(TargetsQuestion(account, asked.span, (zone.name,), asked.side))
            self.fresh = self.fresh.after(answer)
            (found,) = answer.zones
            count += len(found.rows)
            if count > HOST_ROWS_MAX:
                refuse(FROM, "and to are too far apart to read so many hosts: ask for less at a time")
            for day, host, *counters in found.rows:
                if asked.hosts is None or host in asked.hosts:
                    bucket = self._edges[bisect.bisect_right(self._edges, day) - 1]
                    key = (*self._names(zone), bucket, *([host] if is_split else []))
                    sums[key] = list(map(operator.add, sums[key], counters)) if key in sums else counters

    def _sample(self, samples: dict[Key, dict[int, int]], zone: Zone, columns: Columns) -> None:
        names = self._names(zone)
        for sample, packed, size in _sizes(columns):
            place = self._place(packed)
            if place is None:
                continue
            key = (*names, self._edges[bisect.bisect_right(self._edges, sample) - 1], *place)
            of_key = samples.setdefault(key, {})
            of_key[sample] = of_key.get(sample, 0) + size

    def _rates(self, key: Key, samples: dict[int, int]) -> list[int]:
        """Of the samples that have begun: the rest of a running bucket is not idle, but yet to come."""
        if not self._asked.rates:
            return []
        start = key[2]
        end = self._edges[bisect.bisect_right(self._edges, start)]
        begun = grid.floor_to(max(self._asked.now_s, *samples, start), Resolution.FIVE_MINUTES) + rates.STEP
        return rates.compute(self._asked.rates, samples.values(), (min(end, begun) - start) // rates.STEP)


def _edges(asked: Asked) -> Sequence[int]:
    return asked.span if asked.unit is None else localtime.edges(asked.span, asked.unit, asked.timezone)


def _sizes(columns: Columns) -> Iterator[tuple[int, int, int]]:
    for bucket, packed, up, down in zip(
        columns.bucket, columns.dimensions, columns.bytes_up, columns.bytes_down, strict=True
    ):
        yield bucket, packed, up + down
