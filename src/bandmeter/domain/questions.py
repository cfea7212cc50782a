"""The questions that can be asked, and their answers, without any vendor's words.

Law 6: a number has one source. Dialects, the native API, the command line and statements all build one of these
questions and hand it to `reports.answer`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from bandmeter.domain.grid import Resolution, Span, Unit
from bandmeter.domain.localtime import UTC
from bandmeter.domain.tenancy import Account, Zone
from bandmeter.domain.usage import Columns, HostRow, Measure, Row, Side

SPAN_SECONDS_MAX = 800 * 86_400  # of one question: two years and a leap month, which every vendor's window fits into
DAILY_COSTS_MAX = 310_000  # zones times days of one question: 10,000 zones for a month, in two seconds and 150 MB


@dataclasses.dataclass(frozen=True, slots=True)
class UsageQuestion:
    """Usage of some zones of an account, in buckets of `resolution`, by the clock of an IANA `timezone`.

    `zones` None: every active zone of the account, and every suspended or deleted one with traffic in `span`.
    `product`: only zones of that product. `side` None: each zone's own billed side.
    `span` must lie on edges of `resolution` in `timezone`: see `localtime`.
    """

    account: str
    span: Span
    zones: tuple[str, ...] | None = None
    resolution: Resolution | Unit = Resolution.DAY
    side: Side | None = None
    timezone: str = UTC
    product: str | None = None


class ZoneUsage(NamedTuple):
    """One zone's rows, ordered by bucket, then dimensions; buckets without traffic are absent."""

    zone: Zone
    columns: Columns

    @property
    def rows(self) -> list[Row]:
        """The same, row by row."""
        return self.columns.rows


class Basis(NamedTuple):
    """What an answer rests on: the usage of these zones (their numbers), as of a version that was read before it.

    While `Store.freshness` tells the same version of them, the same question has the same answer, the clock and the
    catalog being the same.
    """

    zones: tuple[int, ...]
    version: int


class UsageAnswer(NamedTuple):
    """`newest_ms`: time of the newest counted traffic of these zones, None if none ever.

    `committed_ms`: when the store last committed usage, of any account; None if it never did.
    """

    zones: list[ZoneUsage]
    newest_ms: int | None
    committed_ms: int | None
    basis: Basis


@dataclasses.dataclass(frozen=True, slots=True)
class SeriesQuestion:
    """One number a bucket, as a chart wants it: less than `UsageQuestion` tells, and several times faster.

    `names`: zones by their name or one of their identities, letters in any case, as people name domains; None: every
    active zone. `where`: (dimension, value) pairs, all of which the counted traffic has. The rest as `UsageQuestion`.
    """

    account: str
    span: Span
    names: tuple[str, ...] | None = None
    resolution: Unit = Unit.FIVE_MINUTES
    measure: Measure = Measure.BYTES
    where: tuple[tuple[str, str], ...] = ()
    side: Side | None = None
    timezone: str = UTC


class Series(NamedTuple):
    """One zone's numbers, under the name by which it was asked for: `buckets` ascending, `values` beside them.

    Buckets without traffic are absent, or their value is 0.
    """

    name: str
    zone: Zone
    buckets: Sequence[int]
    values: Sequence[int]


class SeriesAnswer(NamedTuple):
    """`edges`: where each bucket of the span starts, with traffic or without, and where the last one ends."""

    series: list[Series]
    edges: Sequence[int]
    basis: Basis

    def total(self) -> tuple[Sequence[int], Sequence[int]]:
        """Buckets and values of all zones together; a zone that was named twice counts once."""
        return add_series(list({one.zone.number: (one.buckets, one.values) for one in self.series}.values()))


def add_series(parts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> tuple[Sequence[int], Sequence[int]]:
    """The sum of several (buckets, values), bucket by bucket, ascending."""
    if not parts:
        return (), ()
    first = parts[0][0]
    if all(buckets is first or buckets == first for buckets, _ in parts):  # as those of busy zones are
        return first, parts[0][1] if len(parts) == 1 else list(
            map(sum, zip(*(values for _, values in parts), strict=True))
        )
    sums: dict[int, int] = {}
    for buckets, values in parts:
        for bucket, value in zip(buckets, values, strict=True):
            sums[bucket] = sums.get(bucket, 0) + value
    ordered = sorted(sums)
    return ordered, [sums[bucket] for bucket in ordered]


OTHER = "other"  # the host under which everything is that is not kept by host
TARGETS_MAX = (
    300_000  # hosts times days of one question: those of 100 busy zones for a month, in two seconds and 200 MB
)


@dataclasses.dataclass(frozen=True, slots=True)
class TargetsQuestion:
    """Usage by target host and UTC day; `span` lies on edges of days. The rest as `UsageQuestion`.

    A zone that is named twice counts once.
    """

    account: str
    span: Span
    zones: tuple[str, ...] | None = None
    side: Side | None = None


class ZoneTargets(NamedTuple):
    """One zone's rows, ordered by day and host; what is kept under no host stands under OTHER, so that days add up."""

    zone: Zone
    rows: list[HostRow]


class TargetsAnswer(NamedTuple):
    """As `UsageAnswer`."""

    zones: list[ZoneTargets]
    newest_ms: int | None
    committed_ms: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class CostQuestion:
    """Bytes and cost of some zones, for several spans (on 5-minute edges, any length). `zones` None: every zone."""

    account: str
    spans: tuple[Span, ...]
    zones: tuple[str, ...] | None = None


class Cost(NamedTuple):
    """What a zone's traffic in a span costs. `amount` is exact: whoever shows it rounds, once.

    `successes` are those of the `requests` that were answered with 2xx or 404.

    `unit` is what the plan bills: "bytes", "requests", or "" without a plan.
    """

    bytes: int
    requests: int
    successes: int
    amount: Decimal
    unit: str


class ZoneCost(NamedTuple):
    """One zone's costs, one per span asked."""

    zone: Zone
    costs: list[Cost]


class CostAnswer(NamedTuple):
    """In the account's currency."""

    currency: str
    zones: list[ZoneCost]


@dataclasses.dataclass(frozen=True, slots=True)
class DailyCostQuestion:
    """What some zones cost on each UTC day of `span`, which lies on edges of days, and in all of it.

    `zones` None: every zone; one that is named twice counts once. `networks` None: zones of any network.
    """

    account: str
    span: Span
    zones: tuple[str, ...] | None = None
    networks: frozenset[str] | None = None


class ZoneDays(NamedTuple):
    """What a zone cost, exact. `amounts`: start of a day → its cost, ascending; days that cost nothing are absent.

    `total` is what the span costs as one. A plan whose costs do not add up may make it differ from the days' sum.
    """

    zone: Zone
    amounts: dict[int, Decimal]
    total: Decimal


class DailyCostAnswer(NamedTuple):
    """In the account's currency."""

    currency: str
    zones: list[ZoneDays]


@dataclasses.dataclass(frozen=True, slots=True)
class TargetCostsQuestion:
    """The same by target host. The fields are those of `DailyCostQuestion`."""

    account: str
    span: Span
    zones: tuple[str, ...] | None = None
    networks: frozenset[str] | None = None


class ZoneTargetCosts(NamedTuple):
    """A zone's `ZoneDays`, divided: start of a day → host → exact cost, and host → cost in the span.

    A day's cost is divided by what its plan bills, bytes or requests: the hosts' shares add up to it, to the last
    digit, and `totals` in the same way to the span's cost. Hosts that cost nothing are absent.
    """

    zone: Zone
    amounts: dict[int, dict[str, Decimal]]
    totals: dict[str, Decimal]


class TargetCostsAnswer(NamedTuple):
    """In the account's currency."""

    currency: str
    zones: list[ZoneTargetCosts]


@dataclasses.dataclass(frozen=True, slots=True)
class ZonesQuestion:
    """The zones of an account, by name; `zones` None: all of them, whatever their status."""

    account: str
    zones: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class AccountQuestion:
    """The account itself."""

    account: str


@dataclasses.dataclass(frozen=True, slots=True)
class BalanceQuestion:
    """What is left of an account's prepayment."""

    account: str
    now_s: int


class Balance(NamedTuple):
    """In the account's currency. `balance` = `prepayment` + `credit` - closed costs - `pending`.

    `pending` are the costs of the running month, exact.
    """

    balance: Decimal
    credit: Decimal
    prepayment: Decimal
    pending: Decimal


@dataclasses.dataclass(frozen=True, slots=True)
class Questions:
    """Several at once; they are answered by a list, in their order."""

    questions: tuple[Question, ...]


Question = (
    UsageQuestion
    | SeriesQuestion
    | TargetsQuestion
    | CostQuestion
    | DailyCostQuestion
    | TargetCostsQuestion
    | ZonesQuestion
    | AccountQuestion
    | BalanceQuestion
    | Questions
)
Answer = (
    UsageAnswer
    | SeriesAnswer
    | TargetsAnswer
    | CostAnswer
    | DailyCostAnswer
    | TargetCostsAnswer
    | list[Zone]
    | Account
    | Balance
    | list[Any]
)
