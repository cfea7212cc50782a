"""Answers to the questions of `domain/questions.py`.

Law 6: a number has one source: dashboard, dialects, native API and statement ask the same question of `answer`.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, overload

from bandmeter.domain import errors, grid, localtime, money, usage
from bandmeter.domain.contracts import Price, Store
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span, Unit
from bandmeter.domain.localtime import UTC
from bandmeter.domain.questions import (
    DAILY_COSTS_MAX,
    OTHER,
    SPAN_SECONDS_MAX,
    AccountQuestion,
    Answer,
    Balance,
    BalanceQuestion,
    Cost,
    CostAnswer,
    CostQuestion,
    DailyCostAnswer,
    DailyCostQuestion,
    Question,
    Questions,
    Series,
    SeriesAnswer,
    SeriesQuestion,
    TargetsQuestion,
    UsageAnswer,
    UsageQuestion,
    ZoneCost,
    ZoneDays,
    ZonesQuestion,
    ZoneTargets,
    ZoneUsage,
)
from bandmeter.domain.tenancy import Account, Zone, ZoneStatus
from bandmeter.domain.usage import ZERO, Columns, Counters, HostRow, Side

if TYPE_CHECKING:
    from bandmeter.catalog import Catalog

NO_ROWS = Columns()
ZONE_NOT_FOUND = "Zone not found"  # the same whether the zone exists in another account or nowhere


class Reports:
    """Asks the catalog and the store. Holds nothing of its own, so any thread may use it."""

    def __init__(self, catalog: Catalog, store: Store, prices: Mapping[str, Price]) -> None:
        self.catalog = catalog
        self.store = store
        self.prices = prices
        self._answers: dict[type, Callable[[Any], Answer]] = {
            UsageQuestion: self._usage,
            SeriesQuestion: self._series,
            TargetsQuestion: self._targets,
            CostQuestion: self._costs,
            DailyCostQuestion: self._daily_costs,
            ZonesQuestion: lambda question: self._zones(question.account, question.zones),
            AccountQuestion: lambda question: self._account(question.account),
            BalanceQuestion: self._balance,
        }

    @overload
    def answer(self, question: UsageQuestion) -> UsageAnswer: ...
    @overload
    def answer(self, question: SeriesQuestion) -> SeriesAnswer: ...
    @overload
    def answer(self, question: TargetsQuestion) -> list[ZoneTargets]: ...
    @overload
    def answer(self, question: CostQuestion) -> CostAnswer: ...
    @overload
    def answer(self, question: DailyCostQuestion) -> DailyCostAnswer: ...
    @overload
    def answer(self, question: ZonesQuestion) -> list[Zone]: ...
    @overload
    def answer(self, question: AccountQuestion) -> Account: ...
    @overload
    def answer(self, question: BalanceQuestion) -> Balance: ...
    @overload
    def answer(self, question: Questions) -> list[Any]: ...
    def answer(self, question: Question) -> Answer:
        """Answer one question.

        Raises:
            BandmeterError: `zone_unknown`, `account_unknown`, or `parameter_invalid` for a span that cannot be asked.

        """
        if isinstance(question, Questions):
            return [self.answer(each) for each in question.questions]
        return self._answers[type(question)](question)

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

    def _named(self, account: str, names: Sequence[str] | None) -> list[tuple[str, Zone]]:
        """Zones by what people call them; None: every active one."""
        if names is None:
            zones = self.catalog.zones(self._account(account).id)
            return [(zone.name, zone) for zone in zones if zone.status is ZoneStatus.ACTIVE]
        return [(name, self._find(account, name)) for name in names]

    def _find(self, account: str, name: str) -> Zone:
        """The zone of that name, letters in any case, or the one that has it among its identities."""
        found = self.catalog.zone(account, name) or self.catalog.zone(account, name.lower())
        if found is not None:
            return found
        wanted, zones = name.lower(), self.catalog.zones(account)
        for zone in zones:
            if zone.name.lower() == wanted:
                return zone
        for zone in zones:
            if any(identity.lower() == wanted for identity in zone.identities):
                return zone
        raise BandmeterError(errors.ZONE_UNKNOWN, f"This account has no zone {name!r}.")

    # ------------------------------------------------------------ usage

    def _usage(self, question: UsageQuestion) -> UsageAnswer:
        if question.timezone != UTC or isinstance(question.resolution, Unit):
            return self._local_usage(question)
        _check_span(question.span, question.resolution)
        return self._read(question, question.resolution)

    def _local_usage(self, question: UsageQuestion) -> UsageAnswer:
        """In buckets of any unit and zone, added up from the coarsest table that has their edges."""
        unit = question.resolution
        if isinstance(unit, Resolution):
            unit = grid.UNITS[unit]
        edges, resolution = _edges(question.span, unit, question.timezone)
        answer = self._read(question, resolution)
        if _is_stored(edges, resolution):
            return answer
        zones = [ZoneUsage(used.zone, _regroup(used.columns, edges)) for used in answer.zones]
        return answer._replace(zones=zones)

    def _read(self, question: UsageQuestion, resolution: Resolution) -> UsageAnswer:
        zones = self._zones(question.account, question.zones)
        if question.product is not None:
            zones = [zone for zone in zones if zone.product == question.product]
        rows = self._rows(zones, question, resolution)
        if question.zones is None:
            zones = [zone for zone in zones if zone.status is ZoneStatus.ACTIVE or zone.number in rows]
        return UsageAnswer(
            [ZoneUsage(zone, rows.get(zone.number, NO_ROWS)) for zone in zones],
            self.store.newest_ms([zone.number for zone in zones]),
            self.store.committed_ms(),
        )

    def _rows(self, zones: Sequence[Zone], question: UsageQuestion, resolution: Resolution) -> dict[int, Columns]:
        rows: dict[int, Columns] = {}
        for side, numbers in _by_side(zones, question.side).items():
            rows.update(self.store.read(numbers, side, resolution, question.span))
        return rows

    def _series(self, question: SeriesQuestion) -> SeriesAnswer:
        edges, resolution = _edges(question.span, question.resolution, question.timezone)
        named = self._named(question.account, question.names)
        selection = usage.select(question.measure, question.where)
        found: dict[int, _Numbers] = {}
        for side, numbers in _by_side([zone for _, zone in named], question.side).items():
            found.update(self.store.read_series(numbers, side, resolution, question.span, selection))
        if not _is_stored(edges, resolution):
            found = {number: _fold(*numbers, edges) for number, numbers in found.items()}
        folded = _merge(found)
        return SeriesAnswer([Series(name, zone, *folded.get(zone.number, ((), ()))) for name, zone in named], edges)

    def _targets(self, question: TargetsQuestion) -> list[ZoneTargets]:
        _check_span(question.span, Resolution.DAY)
        zones = self._zones(question.account, question.zones)
        kept: dict[int, list[HostRow]] = {}
        for side, numbers in _by_side(zones, question.side).items():  # before the totals, which then are no smaller
            kept |= self.store.read_hosts(numbers, side, question.span)
        totals = self._rows(zones, UsageQuestion(question.account, question.span, side=question.side), Resolution.DAY)
        return [
            ZoneTargets(zone, _with_other(kept.get(zone.number, []), totals[zone.number]))
            for zone in zones
            if zone.number in totals
        ]

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
        size = counters.bytes_up + counters.bytes_down
        return Cost(size, counters.requests, counters.successes, amount, unit)

    def _total_from(self, zone: Zone, span: Span, start: int) -> Counters:
        return ZERO if start >= span.end else self.store.total(zone.number, zone.side, Span(start, span.end))

    def _daily_costs(self, question: DailyCostQuestion) -> DailyCostAnswer:
        _check_span(question.span, Resolution.DAY)
        account = self._account(question.account)
        zones = self._zones(account.id, None if question.zones is None else list(dict.fromkeys(question.zones)))
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
        used = _by_bucket(rows)
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


def _day(start: int) -> Span:
    return Span(start, start + Resolution.DAY)


def _by_bucket(columns: Columns) -> dict[int, Counters]:
    """The sums of each bucket, over its dimensions; ascending."""
    sums: dict[int, list[int]] = {}
    for bucket, _, requests, successes, up, down in zip(*columns, strict=True):
        known = sums.get(bucket)
        if known is None:
            sums[bucket] = [requests, successes, up, down]
        else:  # in place: Counters.plus takes three times as long
            known[0] += requests
            known[1] += successes
            known[2] += up
            known[3] += down
    return {bucket: Counters._make(counters) for bucket, counters in sums.items()}


_Numbers = tuple[list[int], list[int]]


def _by_side(zones: Sequence[Zone], side: Side | None) -> dict[Side, list[int]]:
    """The numbers of the zones, each once, by the side that is asked for, or that each bills."""
    by_side: dict[Side, dict[int, None]] = {}
    for zone in zones:
        by_side.setdefault(side or zone.side, {})[zone.number] = None
    return {each: list(numbers) for each, numbers in by_side.items()}


def _edges(span: Span, unit: Unit, timezone: str) -> tuple[Sequence[int], Resolution]:
    """The edges of a question's buckets, and the table that can answer it."""
    _check_length(span)
    edges = localtime.edges(span, unit, timezone)
    return edges, grid.table(edges)


def _is_stored(edges: Sequence[int], resolution: Resolution) -> bool:
    """Whether the buckets between `edges` are the table's own."""
    return edges[-1] - edges[0] == (len(edges) - 1) * resolution


def _regroup(columns: Columns, edges: Sequence[int]) -> Columns:
    """The table's rows added up to the buckets between `edges`."""
    starts = {bucket: edges[bisect.bisect_right(edges, bucket) - 1] for bucket in set(columns.bucket)}
    sums: dict[tuple[int, int], list[int]] = {}
    for bucket, dimensions, *counters in zip(*columns, strict=True):
        key = (starts[bucket], dimensions)
        known = sums.get(key)
        sums[key] = counters if known is None else list(map(operator.add, known, counters))
    return Columns._make(zip(*((*key, *sums[key]) for key in sorted(sums)), strict=True)) if sums else NO_ROWS


def _with_other(kept: list[HostRow], totals: Columns) -> list[HostRow]:
    """The hosts of each day, and what they lack to its total."""
    rest: dict[int, list[int]] = {}
    for bucket, _, *counters in zip(*totals, strict=True):
        rest[bucket] = list(map(operator.add, rest.get(bucket, [0] * len(counters)), counters))
    for row in kept:
        rest[row.day] = list(map(operator.sub, rest[row.day], row[2:]))
    others = [HostRow(day, OTHER, *counters) for day, counters in rest.items() if any(counters)]
    return sorted([*kept, *others])


def _fold(buckets: list[int], values: list[int], edges: Sequence[int]) -> _Numbers:
    """One value for each bucket between `edges`."""
    starts = {bucket: edges[bisect.bisect_right(edges, bucket) - 1] for bucket in set(buckets)}
    return _add_up([starts[bucket] for bucket in buckets], values)


def _merge(found: dict[int, _Numbers]) -> dict[int, _Numbers]:
    """Each bucket once. Zones may share a list of buckets, which is looked at once."""
    lists = {id(buckets): buckets for buckets, _ in found.values()}
    is_single = {key: len(set(buckets)) == len(buckets) for key, buckets in lists.items()}
    return {number: each if is_single[id(each[0])] else _add_up(*each) for number, each in found.items()}


def _add_up(buckets: list[int], values: list[int]) -> _Numbers:
    sums: dict[int, int] = {}
    for bucket, value in zip(buckets, values, strict=True):
        sums[bucket] = sums.get(bucket, 0) + value
    return list(sums), list(sums.values())


def _check_length(span: Span) -> None:
    if span.start > span.end:
        raise BandmeterError(errors.PARAMETER_INVALID, "The period ends before it starts.")
    if span.end - span.start > SPAN_SECONDS_MAX:
        days = SPAN_SECONDS_MAX // Resolution.DAY
        raise BandmeterError(errors.PARAMETER_INVALID, f"The period is longer than {days} days.")


def _check_span(span: Span, resolution: Resolution) -> None:
    _check_length(span)
    if not span.is_aligned(resolution):
        raise BandmeterError(
            errors.PARAMETER_INVALID,
            f"The period must start and end on an edge of {int(resolution)} seconds, UTC.",
        )
