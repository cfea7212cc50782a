"""What traffic costs: exact, and rounded by nobody here (law 7)."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from bandmeter.domain import errors, grid, money
from bandmeter.domain.contracts import Price, Store
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import (
    DAILY_COSTS_MAX,
    Balance,
    BalanceQuestion,
    Cost,
    CostAnswer,
    CostQuestion,
    DailyCostAnswer,
    DailyCostQuestion,
    ZoneCost,
    ZoneDays,
)
from bandmeter.domain.tenancy import Account, Zone
from bandmeter.domain.usage import ZERO, Counters
from bandmeter.reports import folding, tenants
from bandmeter.reports.folding import NO_ROWS, check_span

if TYPE_CHECKING:
    from bandmeter.catalog import Catalog


class Costs:
    """Asks the catalog for plans and the store for what they bill."""

    def __init__(self, catalog: Catalog, store: Store, prices: Mapping[str, Price]) -> None:
        self.catalog = catalog
        self.store = store
        self.prices = prices

    def of_spans(self, question: CostQuestion) -> CostAnswer:
        """What some zones cost in each of several spans."""
        for span in question.spans:
            check_span(span, Resolution.FIVE_MINUTES)
        account = tenants.account(self.catalog, question.account)
        return CostAnswer(
            account.currency,
            [
                ZoneCost(zone, [self._cost(zone, span, _trial_end(account)) for span in question.spans])
                for zone in tenants.zones(self.catalog, account.id, question.zones)
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
        size = counters.bytes_up + counters.bytes_down
        return Cost(size, counters.requests, counters.successes, amount, unit)

    def _total_from(self, zone: Zone, span: Span, start: int) -> Counters:
        return ZERO if start >= span.end else self.store.total(zone.number, zone.side, Span(start, span.end))

    def of_days(self, question: DailyCostQuestion) -> DailyCostAnswer:
        """What some zones cost on each day of a span, and in all of it."""
        check_span(question.span, Resolution.DAY)
        account = tenants.account(self.catalog, question.account)
        names = None if question.zones is None else list(dict.fromkeys(question.zones))
        zones = tenants.zones(self.catalog, account.id, names)
        if question.networks is not None:
            zones = [zone for zone in zones if zone.network in question.networks]
        days = (question.span.end - question.span.start) // Resolution.DAY
        if len(zones) * days > DAILY_COSTS_MAX:
            sentence = f"{len(zones)} zones for {days} days are too many at once: ask for fewer zones or days."
            raise BandmeterError(errors.PARAMETER_INVALID, sentence)
        trial_end = _trial_end(account)
        return DailyCostAnswer(account.currency, [self._days(zone, question.span, trial_end) for zone in zones])

    def _days(self, zone: Zone, span: Span, trial_end: int) -> ZoneDays:
        """Where costs add up, a day is priced from its own row, and a month is the sum of its days; else as `_cost`."""
        rows = self.store.read([zone.number], zone.side, Resolution.DAY, span).get(zone.number, NO_ROWS)
        used = folding.by_bucket(rows)
        amounts: dict[int, Decimal] = {}
        total = money.NOTHING
        for month in grid.months_in(span):
            found = self.catalog.plan(zone, grid.month_name(month.start))
            if found is None:
                continue
            price = self.prices[found[0]]
            if price.is_summable:
                plan = price.parse(found[1])
                for day in filter(month.holds, used):
                    billed = used[day] if trial_end <= day else self._total_from(zone, _day(day), trial_end)
                    amounts[day] = price.cost(plan, billed)
                    total = money.add(total, amounts[day])
            else:
                for day in range(month.start, month.end, Resolution.DAY):
                    amounts[day] = self._cost(zone, _day(day), trial_end).amount
                total = money.add(total, self._cost(zone, month, trial_end).amount)
        return ZoneDays(zone, {day: amount for day, amount in amounts.items() if amount}, total)

    def balance(self, question: BalanceQuestion) -> Balance:
        """What is left. Until months are closed by statements, every month before the running one counts as closed."""
        account = tenants.account(self.catalog, question.account)
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


def _day(start: int) -> Span:
    return Span(start, start + Resolution.DAY)
