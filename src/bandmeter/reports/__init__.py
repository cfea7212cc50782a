"""Answers to the questions of `domain/questions.py`.

Law 6: a number has one source: dashboard, dialects, native API and statement ask the same question of `answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

from bandmeter.domain import errors, grid, usage
from bandmeter.domain.contracts import Freshness, Price, Store
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Unit
from bandmeter.domain.localtime import UTC
from bandmeter.domain.questions import (
    AccountQuestion,
    Answer,
    Balance,
    BalanceQuestion,
    Basis,
    CostAnswer,
    CostQuestion,
    DailyCostAnswer,
    DailyCostQuestion,
    Question,
    Questions,
    Series,
    SeriesAnswer,
    SeriesQuestion,
    TargetCostsAnswer,
    TargetCostsQuestion,
    TargetsAnswer,
    TargetsQuestion,
    UsageAnswer,
    UsageQuestion,
    ZonesQuestion,
    ZoneUsage,
)
from bandmeter.domain.tenancy import Account, Zone, ZoneStatus
from bandmeter.domain.usage import Columns, Side
from bandmeter.reports import folding, tenants
from bandmeter.reports.costs import Costs
from bandmeter.reports.folding import NO_ROWS
from bandmeter.reports.targets import Targets

if TYPE_CHECKING:
    from bandmeter.catalog import Catalog


class Reports:
    """Asks the catalog and the store. Holds nothing of its own, so any thread may use it."""

    def __init__(self, catalog: Catalog, store: Store, prices: Mapping[str, Price]) -> None:
        self.catalog = catalog
        self.store = store
        self.prices = prices
        costs, targets = Costs(catalog, store, prices), Targets(catalog, store, prices, self.answer)
        self._answers: dict[type, Callable[[Any], Answer]] = {
            UsageQuestion: self._usage,
            SeriesQuestion: self._series,
            TargetsQuestion: targets.usage,
            CostQuestion: costs.of_spans,
            DailyCostQuestion: costs.of_days,
            TargetCostsQuestion: targets.costs,
            ZonesQuestion: lambda question: self._zones(question.account, question.zones),
            AccountQuestion: lambda question: self._account(question.account),
            BalanceQuestion: costs.balance,
        }

    @overload
    def answer(self, question: UsageQuestion) -> UsageAnswer: ...
    @overload
    def answer(self, question: SeriesQuestion) -> SeriesAnswer: ...
    @overload
    def answer(self, question: TargetsQuestion) -> TargetsAnswer: ...
    @overload
    def answer(self, question: CostQuestion) -> CostAnswer: ...
    @overload
    def answer(self, question: DailyCostQuestion) -> DailyCostAnswer: ...
    @overload
    def answer(self, question: TargetCostsQuestion) -> TargetCostsAnswer: ...
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
        return tenants.account(self.catalog, account)

    def _zones(self, account: str, names: Sequence[str] | None) -> list[Zone]:
        return tenants.zones(self.catalog, account, names)

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
        folding.check_span(question.span, question.resolution)
        return self._read(question, question.resolution)

    def _local_usage(self, question: UsageQuestion) -> UsageAnswer:
        """In buckets of any unit and zone, added up from the coarsest table that has their edges."""
        unit = question.resolution
        if isinstance(unit, Resolution):
            unit = grid.UNITS[unit]
        edges, resolution = folding.edges(question.span, unit, question.timezone)
        answer = self._read(question, resolution)
        if folding.is_stored(edges, resolution):
            return answer
        zones = [ZoneUsage(used.zone, folding.regroup(used.columns, edges)) for used in answer.zones]
        return answer._replace(zones=zones)

    def _read(self, question: UsageQuestion, resolution: Resolution) -> UsageAnswer:
        zones = self._zones(question.account, question.zones)
        if question.product is not None:
            zones = [zone for zone in zones if zone.product == question.product]
        basis, fresh = self._basis(zones)
        rows = self._rows(zones, question, resolution)
        shown = zones
        if question.zones is None:
            shown = [zone for zone in zones if zone.status is ZoneStatus.ACTIVE or zone.number in rows]
        newest_ms = fresh.newest_ms
        if len(shown) < len(zones):
            newest_ms = self.store.freshness([zone.number for zone in shown]).newest_ms
        used = [ZoneUsage(zone, rows.get(zone.number, NO_ROWS)) for zone in shown]
        return UsageAnswer(used, newest_ms, fresh.committed_ms, basis)

    def _basis(self, zones: Iterable[Zone]) -> tuple[Basis, Freshness]:
        """To be asked before the rows: what changes in between is then in them, and their version is too low."""
        numbers = tuple(dict.fromkeys(zone.number for zone in zones))
        fresh = self.store.freshness(numbers)
        return Basis(numbers, fresh.version), fresh

    def _rows(self, zones: Sequence[Zone], question: UsageQuestion, resolution: Resolution) -> dict[int, Columns]:
        rows: dict[int, Columns] = {}
        for side, numbers in _by_side(zones, question.side).items():
            rows.update(self.store.read(numbers, side, resolution, question.span))
        return rows

    def _series(self, question: SeriesQuestion) -> SeriesAnswer:
        edges, resolution = folding.edges(question.span, question.resolution, question.timezone)
        named = self._named(question.account, question.names)
        selection = usage.select(question.measure, question.where)
        basis, _ = self._basis(zone for _, zone in named)
        found: dict[int, folding.Numbers] = {}
        for side, numbers in _by_side([zone for _, zone in named], question.side).items():
            found.update(self.store.read_series(numbers, side, resolution, question.span, selection))
        if not folding.is_stored(edges, resolution):
            found = {number: folding.fold(*numbers, edges) for number, numbers in found.items()}
        folded = folding.merge(found)
        series = [Series(name, zone, *folded.get(zone.number, ((), ()))) for name, zone in named]
        return SeriesAnswer(series, edges, basis)


def _by_side(zones: Sequence[Zone], side: Side | None) -> dict[Side, list[int]]:
    """The numbers of the zones, each once, by the side that is asked for, or that each bills."""
    by_side: dict[Side, dict[int, None]] = {}
    for zone in zones:
        by_side.setdefault(side or zone.side, {})[zone.number] = None
    return {each: list(numbers) for each, numbers in by_side.items()}
