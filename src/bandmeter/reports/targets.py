"""Usage and cost by target host: what is kept by host, and all else under OTHER, so that days add up."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from bandmeter.domain import errors, grid, money
from bandmeter.domain.contracts import Price, Store
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution
from bandmeter.domain.questions import (
    OTHER,
    TARGETS_MAX,
    DailyCostQuestion,
    TargetCostsAnswer,
    TargetCostsQuestion,
    TargetsAnswer,
    TargetsQuestion,
    UsageQuestion,
    ZoneDays,
    ZoneTargetCosts,
    ZoneTargets,
)
from bandmeter.domain.tenancy import Zone
from bandmeter.domain.usage import Columns, HostRow
from bandmeter.reports import tenants
from bandmeter.reports.folding import check_span

if TYPE_CHECKING:
    from bandmeter.catalog import Catalog

BYTES, REQUESTS = "bytes", "requests"


class Targets:
    """Asks the store for hosts, and `answer` for the totals that they are a part of (law 6)."""

    def __init__(
        self, catalog: Catalog, store: Store, prices: Mapping[str, Price], answer: Callable[[Any], Any]
    ) -> None:
        self.catalog = catalog
        self.store = store
        self.prices = prices
        self.answer = answer

    def usage(self, question: TargetsQuestion) -> TargetsAnswer:
        """Usage by host and day."""
        check_span(question.span, Resolution.DAY)
        names = None if question.zones is None else tuple(dict.fromkeys(question.zones))
        zones = tenants.zones(self.catalog, question.account, names)
        kept = self._kept(zones, question)  # before the totals, which then are no smaller
        used = self.answer(UsageQuestion(question.account, question.span, names, Resolution.DAY, question.side))
        return TargetsAnswer(
            [ZoneTargets(one.zone, _with_other(kept.get(one.zone.number, []), one.columns)) for one in used.zones],
            used.newest_ms,
            used.committed_ms,
        )

    def _kept(self, zones: Sequence[Zone], question: TargetsQuestion) -> dict[int, list[HostRow]]:
        kept: dict[int, list[HostRow]] = {}
        room = TARGETS_MAX
        for zone in zones:
            found = self.store.read_hosts([zone.number], question.side or zone.side, question.span, room + 1)
            kept |= found
            room -= sum(map(len, found.values()))
            if room < 0:
                sentence = f"More than {TARGETS_MAX} hosts by day are too many at once: ask for fewer zones or days."
                raise BandmeterError(errors.PARAMETER_INVALID, sentence)
        return kept

    # ------------------------------------------------------------ money

    def costs(self, question: TargetCostsQuestion) -> TargetCostsAnswer:
        """What each host has cost: its share of what its zone's day has."""
        account, span = question.account, question.span
        daily = self.answer(DailyCostQuestion(account, span, question.zones, question.networks))
        names = tuple(days.zone.name for days in daily.zones if days.amounts)
        used = {one.zone.number: one.rows for one in self.usage(TargetsQuestion(account, span, names)).zones}
        return TargetCostsAnswer(
            daily.currency, [self._divided(days, used.get(days.zone.number, [])) for days in daily.zones]
        )

    def _divided(self, days: ZoneDays, rows: Sequence[HostRow]) -> ZoneTargetCosts:
        units = {month: self._unit(days.zone, month) for month in set(map(grid.month_start, days.amounts))}
        weights: dict[int, dict[str, int]] = {day: {} for day in days.amounts}
        for row in rows:
            if row.day in weights:
                is_by_requests = units[grid.month_start(row.day)] == REQUESTS
                weights[row.day][row.host] = row.requests if is_by_requests else row.bytes_up + row.bytes_down
        amounts = {day: _shares(amount, weights[day]) for day, amount in days.amounts.items()}
        sums: dict[str, Decimal] = {}
        for shares in amounts.values():
            for host, amount in shares.items():
                sums[host] = money.add(sums.get(host, money.NOTHING), amount)
        return ZoneTargetCosts(
            days.zone, amounts, _shares(days.total, dict(zip(sums, money.ratio(sums.values()), strict=True)))
        )

    def _unit(self, zone: Zone, month: int) -> str:
        found = self.catalog.plan(zone, grid.month_name(month))
        return self.prices[found[0]].unit if found else BYTES


def _shares(amount: Decimal, weights: Mapping[str, int]) -> dict[str, Decimal]:
    """Host → its share; what nothing says whose it is, is OTHER's."""
    if not any(weights.values()):
        return {OTHER: amount} if amount else {}
    shares = money.shares(amount, list(weights.values()))
    return {host: share for host, share in zip(weights, shares, strict=True) if share}


def _with_other(kept: Sequence[HostRow], totals: Columns) -> list[HostRow]:
    """The hosts of each day, and what they lack to its total. A host that is called OTHER is a part of that."""
    named = [row for row in kept if row.host != OTHER]
    rest: dict[int, list[int]] = {}
    for bucket, _, *counters in zip(*totals, strict=True):
        rest[bucket] = list(map(operator.add, rest.get(bucket, [0] * len(counters)), counters))
    for row in named:
        rest[row.day] = list(map(operator.sub, rest[row.day], row[2:]))
    others = [HostRow(day, OTHER, *counters) for day, counters in rest.items() if any(counters)]
    return sorted([*named, *others])
