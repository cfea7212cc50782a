"""The questions that can be asked, and their answers, without any vendor's words.

Law 6: a number has one source. Dialects, the native API, the command line and statements all build one of these
questions and hand it to `reports.answer`.
"""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import NamedTuple

from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.tenancy import Account, Zone
from bandmeter.domain.usage import Columns, Row, Side

SPAN_SECONDS_MAX = 800 * 86_400  # of one question: two years and a leap month, which every vendor's window fits into


@dataclasses.dataclass(frozen=True, slots=True)
class UsageQuestion:
    """Usage of some zones of an account, in UTC buckets of `resolution`.

    `zones` None: every active zone of the account, and every suspended or deleted one with traffic in `span`.
    `side` None: each zone's own billed side. `span` must lie on edges of `resolution`.
    """

    account: str
    span: Span
    zones: tuple[str, ...] | None = None
    resolution: Resolution = Resolution.DAY
    side: Side | None = None


class ZoneUsage(NamedTuple):
    """One zone's rows, ordered by bucket, then dimensions; buckets without traffic are absent."""

    zone: Zone
    columns: Columns

    @property
    def rows(self) -> list[Row]:
        """The same, row by row."""
        return self.columns.rows


class UsageAnswer(NamedTuple):
    """`newest_ms`: time of the newest counted traffic of these zones, None if none ever.

    `committed_ms`: when the store last committed usage, of any account; None if it never did.
    """

    zones: list[ZoneUsage]
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

    `unit` is what the plan bills: "bytes", "requests", or "" without a plan.
    """

    bytes: int
    requests: int
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


Question = UsageQuestion | CostQuestion | ZonesQuestion | AccountQuestion | BalanceQuestion
Answer = UsageAnswer | CostAnswer | list[Zone] | Account | Balance
