"""Answers to the questions of `domain/questions.py`.

Law 6: a number has one source: dashboard, dialects, native API and statement ask the same question of `answer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, overload

from bandmeter.domain import errors, grid, money
from bandmeter.domain.contracts import Price, Store
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import (
    SPAN_SECONDS_MAX,
    AccountQuestion,
    Answer,
    Balance,
    BalanceQuestion,
    Cost,
    CostAnswer,
    CostQuestion,
    Question,
    UsageAnswer,
    UsageQuestion,
    ZoneCost,
    ZonesQuestion,
    ZoneUsage,
)
from bandmeter.domain.tenancy import Account, Zone, ZoneStatus
from bandmeter.domain.usage import ZERO, Columns, Counters, Side

if TYPE_CHECKING:
    from bandmeter.catalog import Catalog

BILLED_BY_SUCCESS = frozenset({"unlocker", "serp"})  # networks whose billable requests are the successful ones
NO_ROWS = Columns()
ZONE_NOT_FOUND = "Zone not found"  # the same whether the zone exists in another account or nowhere


class Reports:
    """Asks the catalog and the store. Holds nothing of its own, so any thread may use it."""

    def __init__(self, catalog: Catalog, store: Store, prices: Mapping[str, Price]) -> None:
        self.catalog = catalog
        self.store = store
        self.prices = prices

    @overload
    def answer(self, question: UsageQuestion) -> UsageAnswer: ...
    @overload
    def answer(self, question: CostQuestion) -> CostAnswer: ...
    @overload
    def answer(self, question: ZonesQuestion) -> list[Zone]: ...
    @overload
    def answer(self, question: AccountQuestion) -> Account: ...
    @overload
    def answer(self, question: BalanceQuestion) -> Balance: ...
    def answer(self, question: Question) -> Answer:
        """Answer one question.

        Raises:
            BandmeterError: `zone_unknown`, `account_unknown`, or `parameter_invalid` for a span that cannot be asked.

        """
        match question:
            case UsageQuestion():
                return self._usage(question)
            case CostQuestion():
                return self._costs(question)
            case ZonesQuestion():
                return self._zones(question.account, question.zones)
            case AccountQuestion():
                return self._account(question.account)
            case BalanceQuestion():
                return self._balance(question)

    # ------------------------------------------------------------ who

    def _account(self, account: str) -> Account:
        found = self.catalog.account(account)
        if found is None:
            raise BandmeterError(errors.ACCOUNT_UNKNOWN, "Account not found")
        return found

    def _zones(self, account: str, names: Sequence[str] | None) -> list[Zone]:
        if names is None:
            return self.catalog.zones(self._account(account).id)
        found = [self.catalog.zone(account, name) for name in names]
        if None in found:
            raise BandmeterError(errors.ZONE_UNKNOWN, ZONE_NOT_FOUND)
        return [zone for zone in found if zone is not None]

    # ------------------------------------------------------------ usage

    def _usage(self, question: UsageQuestion) -> UsageAnswer:
        _check_span(question.span, question.resolution)
        zones = self._zones(question.account, question.zones)
        rows = self._rows(zones, question)
        if question.zones is None:
            zones = [zone for zone in zones if zone.status is ZoneStatus.ACTIVE or zone.number in rows]
        return UsageAnswer(
            [ZoneUsage(zone, rows.get(zone.number, NO_ROWS)) for zone in zones],
            self.store.newest_ms([zone.number for zone in zones]),
            self.store.committed_ms(),
        )

    def _rows(self, zones: Sequence[Zone], question: UsageQuestion) -> dict[int, Columns]:
        by_side: dict[Side, list[int]] = {}
        for zone in zones:
            by_side.setdefault(question.side or zone.side, []).append(zone.number)
        rows: dict[int, Columns] = {}
        for side, numbers in by_side.items():
            rows.update(self.store.read(numbers, side, question.resolution, question.span))
        return rows

    # ------------------------------------------------------------ money

    def _costs(self, question: CostQuestion) -> CostAnswer:
        for span in question.spans:
            _check_span(span, Resolution.FIVE_MINUTES)
        account = self._account(question.account)
        return CostAnswer(
            account.currency,
            [
                ZoneCost(zone, [self._cost(zone, span, _trial_end(account)) for span in question.spans])
                for zone in self._zones(account.id, question.zones)
            ],
        )

    def _cost(self, zone: Zone, span: Span, trial_end: int) -> Cost:
        """Each month at the plan in force in it; what lies before `trial_end` is counted, but free."""
        counters, amount, unit = ZERO, money.NOTHING, ""
        for month in grid.months_in(span):
            used = self.store.total(zone.number, zone.side, month)
            counters = counters.plus(used)
            found = self.catalog.plan(zone, grid.month_name(month.start))
            if found is None:
                continue
            price = self.prices[found[0]]
            unit = price.unit
            billed = used if trial_end <= month.start else self._total_from(zone, month, trial_end)
            amount = money.add(amount, price.cost(price.parse(found[1]), billed))
        requests = counters.successes if zone.network in BILLED_BY_SUCCESS else counters.requests
        return Cost(counters.bytes_up + counters.bytes_down, requests, amount, unit)

    def _total_from(self, zone: Zone, span: Span, start: int) -> Counters:
        return ZERO if start >= span.end else self.store.total(zone.number, zone.side, Span(start, span.end))

    def _balance(self, question: BalanceQuestion) -> Balance:
        """Until months are closed by statements, every month before the running one counts as closed."""
        account = self._account(question.account)
        running = grid.month_span(question.now_s)
        closed, pending = money.NOTHING, money.NOTHING
        for zone in self.catalog.zones(account.id):
            pending = money.add(pending, self._cost(zone, running, _trial_end(account)).amount)
            for month in self._months_with_traffic(zone, running.start):
                closed = money.add(closed, self._cost(zone, month, _trial_end(account)).amount)
        prepayment = Decimal(account.prepayment)
        balance = money.subtract(money.subtract(prepayment, closed), pending)
        return Balance(balance, money.NOTHING, prepayment, pending)

    def _months_with_traffic(self, zone: Zone, end: int) -> list[Span]:
        rows = self.store.read([zone.number], zone.side, Resolution.DAY, Span(0, end)).get(zone.number, NO_ROWS)
        return [grid.month_span(start) for start in sorted({grid.month_start(bucket) for bucket in rows.bucket})]


def _trial_end(account: Account) -> int:
    """Where the account's traffic begins to cost, on a 5-minute edge."""
    return grid.ceil_to(account.trial_until_s or 0, Resolution.FIVE_MINUTES)


def _check_span(span: Span, resolution: Resolution) -> None:
    if span.start > span.end:
        raise BandmeterError(errors.PARAMETER_INVALID, "The period ends before it starts.")
    if span.end - span.start > SPAN_SECONDS_MAX:
        days = SPAN_SECONDS_MAX // Resolution.DAY
        raise BandmeterError(errors.PARAMETER_INVALID, f"The period is longer than {days} days.")
    if not span.is_aligned(resolution):
        raise BandmeterError(
            errors.PARAMETER_INVALID,
            f"The period must start and end on an edge of {int(resolution)} seconds, UTC.",
        )
