"""Laws 6 and 7: what days cost is what the question about costs says of each, and of all together, to the last digit."""

from __future__ import annotations

import dataclasses
import datetime as dt
from array import array
from decimal import Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from bandmeter.domain import grid
from bandmeter.domain.contracts import Batch, Hosts, Price, SourceState
from bandmeter.domain.grid import Span
from bandmeter.domain.money import SHARE_PLACES
from bandmeter.domain.questions import (
    OTHER,
    CostQuestion,
    DailyCostQuestion,
    TargetCostsQuestion,
    TargetsQuestion,
)
from bandmeter.domain.tenancy import Account, Zone
from bandmeter.domain.usage import Outcomes, Side
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore

DAY = 86_400
START = int(dt.datetime(2024, 2, 27, tzinfo=dt.UTC).timestamp())  # before the end of a month with a leap day
DAYS = 5
SOURCE = SourceState(0, "files", "tsv", "a.log", b"", 0, b"", 0, "", Outcomes(), None, None, "")
ZONES = (Zone(1, "acme", "a"), Zone(2, "acme", "b", "res"), Zone(3, "acme", "shop", "cdn", side=Side.CLIENT))


def step(plan, counters):
    """A price whose parts do not add up: of every traffic the same, and of none nothing."""
    return Decimal(plan["price"]) if counters.requests else Decimal(0)


STEP = Price("step", "requests", {}, dict, step, is_summable=False)


class Catalog:
    """An account, its zones, and a plan of each zone and month."""

    def __init__(self, plans, trial_until_s) -> None:
        self.plans = plans
        self.trial_until_s = trial_until_s

    def account(self, account):
        return dataclasses.replace(Account(account), trial_until_s=self.trial_until_s)

    def zones(self, account):
        return list(ZONES)

    def zone(self, account, name):
        return next(zone for zone in ZONES if zone.name == name)

    def plan(self, zone, month):
        return self.plans.get((zone.number, month))


# Prices with more digits than a float has, and a unit that divides into 30 places.
prices = st.tuples(st.sampled_from(["0", "0.42", "0.000000000001", "9999999"]), st.sampled_from(["GB", "GiB"]))
summable = st.builds(lambda drawn: ("per_gb", {"price": drawn[0], "unit": drawn[1]}), prices)
months = [grid.month_name(START), grid.month_name(START + DAYS * DAY)]
keys = st.tuples(st.sampled_from([zone.number for zone in ZONES]), st.sampled_from(months))
rows = st.tuples(
    st.sampled_from([zone.number for zone in ZONES]),
    st.integers(0, DAYS * 288 - 1),  # a 5-minute bucket
    st.integers(0, 2),  # dimensions
    st.tuples(*[st.integers(1, 2**40)] * 8),
)
trials = st.none() | st.integers(START - DAY, START + (DAYS + 1) * DAY)
windows = st.tuples(st.integers(0, DAYS), st.integers(0, DAYS)).map(sorted)


def reports(plans, trial_until_s, drawn, bound=0):
    """Where hosts are kept, a row's kind is its host; that of kind 2 is unknown."""
    store = MemoryStore(hosts_per_day=bound)
    flat = array("q", (n for zone, at, kind, sums in drawn for n in (zone, START + at * 300, kind, *sums)))
    named = [row for row in drawn if row[2] != 2]
    keyed = array("q", (n for zone, at, _, sums in named for n in (zone, START + at // 288 * DAY, *sums)))
    hosts = Hosts([f"host{kind}" for _, _, kind, _ in named], keyed)
    assert store.write(Batch(SOURCE, SOURCE, flat, {}, [], 0, hosts=hosts))
    return Reports(Catalog(plans, trial_until_s), store, PRICES | {"step": STEP})


def days_of(span):
    return tuple(Span(day, day + DAY) for day in range(span.start, span.end, DAY))


@given(st.dictionaries(keys, summable), trials, st.lists(rows, max_size=30), windows)
def test_days_add_up_to_the_window_exactly(plans, trial, drawn, window):
    """Where costs add up: of each day, of the window, at each month's plan, with a trial that ends anywhere."""
    asked = reports(plans, trial, drawn)
    span = Span(*(START + n * DAY for n in window))
    costs = asked.answer(CostQuestion("acme", (*days_of(span), span)))
    for zone, cost in zip(asked.answer(DailyCostQuestion("acme", span)).zones, costs.zones, strict=True):
        assert zone.zone is cost.zone
        *by_day, whole = (one.amount for one in cost.costs)
        shown = {day.start: amount for day, amount in zip(days_of(span), by_day, strict=True) if amount}
        assert list(zone.amounts.items()) == list(shown.items())
        assert zone.total == whole
        assert Fraction(zone.total) == sum(map(Fraction, zone.amounts.values()))


@given(st.dictionaries(keys, st.just(("step", {"price": "7"}))), trials, st.lists(rows, max_size=30), windows)
def test_costs_that_do_not_add_up_are_asked_of_each_day_and_of_the_window(plans, trial, drawn, window):
    """The total is the window's cost, and no sum."""
    asked = reports(plans, trial, drawn)
    span = Span(*(START + n * DAY for n in window))
    costs = asked.answer(CostQuestion("acme", (*days_of(span), span)))
    for zone, cost in zip(asked.answer(DailyCostQuestion("acme", span)).zones, costs.zones, strict=True):
        *by_day, whole = (one.amount for one in cost.costs)
        assert zone.amounts == {d.start: amount for d, amount in zip(days_of(span), by_day, strict=True) if amount}
        assert zone.total == whole


def test_a_total_need_not_be_the_days_sum():
    """Two days of one month cost one step each, and the month one."""
    traffic = [(1, 0, 0, (1,) * 8), (1, 288, 0, (1,) * 8)]
    asked = reports({(1, months[0]): ("step", {"price": "7"})}, None, traffic)
    zone, *_ = asked.answer(DailyCostQuestion("acme", Span(START, START + 2 * DAY))).zones
    assert (list(zone.amounts.values()), zone.total) == ([7, 7], 7)


# ---------------------------------------------------------------- by target host


@given(
    st.dictionaries(keys, st.one_of(summable, st.just(("step", {"price": "7"})))),
    trials,
    st.lists(rows, max_size=30),
    windows,
    st.integers(0, 3),
)
def test_the_shares_of_a_day_add_up_to_its_cost_exactly(plans, trial, drawn, window, bound):
    """Each is its part of what the plan bills, cut behind 60 places; what the cuts leave, the largest has."""
    asked = reports(plans, trial, drawn, bound)
    span = Span(*(START + n * DAY for n in window))
    costs = {zone.zone.number: zone for zone in asked.answer(DailyCostQuestion("acme", span)).zones}
    used = {zone.number: rows for zone, rows in asked.answer(TargetsQuestion("acme", span)).zones}
    answer = asked.answer(TargetCostsQuestion("acme", span))
    assert [zone.number for zone, *_ in answer.zones] == list(costs)
    for zone, amounts, totals in answer.zones:
        whole = costs[zone.number]
        assert list(amounts) == list(whole.amounts)
        for day, shares in amounts.items():
            kind = plans[zone.number, grid.month_name(day)][0]
            weights = {
                row.host: row.requests if kind == "step" else row.bytes_up + row.bytes_down
                for row in used[zone.number]
                if row.day == day
            }
            assert sum(map(Fraction, shares.values())) == Fraction(whole.amounts[day])
            for host, weight in weights.items():
                exact = Fraction(whole.amounts[day]) * weight / sum(weights.values())
                assert abs(Fraction(shares.get(host, 0)) - exact) < Fraction(len(weights), 10**SHARE_PLACES)
            if bound == 0:
                assert set(shares) == {OTHER}
        assert sum(map(Fraction, totals.values())) == Fraction(whole.total)
        if all(plans.get((zone.number, month), ("per_gb",))[0] == "per_gb" for month in months):
            sums = {}
            for shares in amounts.values():
                for host, amount in shares.items():
                    sums[host] = sums.get(host, 0) + Fraction(amount)
            assert {host: Fraction(amount) for host, amount in totals.items()} == sums


def test_a_cost_that_no_traffic_explains_is_of_other():
    """As a fee would be, on a day without requests."""
    asked = reports({(1, months[0]): ("fee", {"price": "7"})}, None, [(1, 0, 0, (0, 0, 1, 1) * 2)], 9)
    fee = Price("fee", "requests", {}, dict, lambda plan, _: Decimal(plan["price"]), is_summable=False)
    asked = Reports(asked.catalog, asked.store, PRICES | {"fee": fee})
    zone, *_ = asked.answer(TargetCostsQuestion("acme", Span(START, START + DAY))).zones
    assert zone.amounts == {START: {OTHER: 7}}
    assert zone.totals == {OTHER: 7}
