"""Reports: one function answers every question, and money is decimal, priced by month, free in the trial."""

from __future__ import annotations

import dataclasses
import datetime as dt
from array import array
from decimal import Decimal
from fractions import Fraction

import pytest

from bandmeter.catalog import Catalog
from bandmeter.domain import errors
from bandmeter.domain.contracts import Batch, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import (
    SPAN_SECONDS_MAX,
    AccountQuestion,
    BalanceQuestion,
    CostQuestion,
    DailyCostQuestion,
    UsageQuestion,
    ZonesQuestion,
)
from bandmeter.domain.tenancy import Account, ZoneStatus
from bandmeter.domain.usage import Outcomes, Row, Side
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore

GB = 10**9
START = SourceState(0, "files", "tsv", "a.log", b"", 0, b"", 0, "", Outcomes(), None, None, "")


def at(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC).timestamp())


def span(start: str, end: str) -> Span:
    return Span(at(start), at(end))


class House:
    """A catalog with the accounts acme and other, an empty store, and what a test does with them."""

    def __init__(self, folder) -> None:
        self.catalog = Catalog.open(f"sqlite:///{folder}/catalog.db")
        self.store = MemoryStore()
        self.reports = Reports(self.catalog, self.store, PRICES)
        self.catalog.add_account(Account("acme", trial_until_s=None, prepayment="100"))
        self.catalog.add_account(Account("other"))
        self.zone = self.catalog.add_zone("acme", "static", now_s=0)

    def carry(self, zone, time: str, up=0, down=0, *, requests=1, successes=0, client=(0, 0, 0, 0)) -> None:
        moment = at(time)
        row = array("q", [zone.number, moment // 300 * 300, 0, requests, successes, up, down, *client])
        source = START._replace(name=f"{zone.number} {time}")  # each record is a file of its own
        assert self.store.write(Batch(source, source, row, {zone.number: moment * 1000}, [], moment * 1000 + 7))

    def price(self, value: str, month: str | None, zone: str | None = None) -> None:
        now_s = at(f"{month}-01") if month else 0
        self.catalog.set_plan("acme", zone, "per_gb", {"price": value}, month, now_s=now_s)

    def cost(self, *spans: Span, zone="static"):
        (found,) = self.reports.answer(CostQuestion("acme", spans, (zone,))).zones
        return found.costs


@pytest.fixture
def house(tmp_path):
    made = House(tmp_path)
    yield made
    made.catalog.close()


# ---------------------------------------------------------------- who


def test_a_zone_elsewhere_is_as_unknown_as_one_nowhere(house):
    """An account learns nothing of another's zones, also not through an error."""
    house.catalog.add_zone("other", "theirs", now_s=0)
    said = set()
    for name in ("theirs", "nowhere"):
        for question in (
            UsageQuestion("acme", span("2026-01-01", "2026-01-02"), (name,)),
            CostQuestion("acme", (), (name,)),
            DailyCostQuestion("acme", Span(0, 0), ("static", name)),
            ZonesQuestion("acme", ("static", name)),
        ):
            with pytest.raises(BandmeterError) as caught:
                house.reports.answer(question)
            said.add((caught.value.code, caught.value.sentence))
    assert said == {(errors.ZONE_UNKNOWN, "Zone not found")}


def test_an_unknown_account_is_told_so(house):
    questions = [
        AccountQuestion("nobody"),
        ZonesQuestion("nobody"),
        BalanceQuestion("nobody", 0),
        CostQuestion("nobody", ()),
        DailyCostQuestion("nobody", Span(0, 0)),
        UsageQuestion("nobody", Span(0, 0)),
    ]
    for question in questions:
        with pytest.raises(BandmeterError) as caught:
            house.reports.answer(question)
        assert caught.value.code == errors.ACCOUNT_UNKNOWN


def test_zones_come_by_name_whatever_their_status(house):
    house.catalog.add_zone("acme", "a", now_s=0)
    house.catalog.set_zone_status("acme", "static", ZoneStatus.DELETED)
    assert [z.name for z in house.reports.answer(ZonesQuestion("acme"))] == ["a", "static"]
    assert house.reports.answer(AccountQuestion("acme")).prepayment == "100"


# ---------------------------------------------------------------- usage


def test_usage_is_of_each_zones_own_side_or_of_the_one_asked(house):
    cdn = house.catalog.add_zone("acme", "cdn.example", "cdn", now_s=0)
    for zone in (house.zone, cdn):
        house.carry(zone, "2026-01-01T00:00:00", 1, 2, client=(3, 4, 5, 6))
    day = span("2026-01-01", "2026-01-02")
    target, client = Row(day.start, 0, 1, 0, 1, 2), Row(day.start, 0, 3, 4, 5, 6)
    own = house.reports.answer(UsageQuestion("acme", day))
    assert {used.zone.name: used.rows for used in own.zones} == {"cdn.example": [client], "static": [target]}
    asked = house.reports.answer(UsageQuestion("acme", day, side=Side.CLIENT))
    assert [used.rows for used in asked.zones] == [[client], [client]]


def test_all_zones_are_the_active_ones_and_others_with_traffic(house):
    zones = {name: house.catalog.add_zone("acme", name, now_s=0) for name in ("gone", "held", "idle_gone", "idle_held")}
    for name in ("gone", "held"):
        house.carry(zones[name], "2026-01-01T00:00:00", 1)
    for name in ("idle_gone", "idle_held"):
        house.carry(zones[name], "2026-03-01T00:00:00", 1)
    for name in zones:
        house.catalog.set_zone_status("acme", name, ZoneStatus.DELETED if "gone" in name else ZoneStatus.SUSPENDED)
    answer = house.reports.answer(UsageQuestion("acme", span("2026-01-01", "2026-01-02")))
    assert [used.zone.name for used in answer.zones] == ["gone", "held", "static"]
    assert answer.newest_ms == at("2026-01-01") * 1000, "of the zones answered"
    assert answer.committed_ms == at("2026-03-01") * 1000 + 7, "of the whole store"


@pytest.mark.parametrize(
    ("asked", "resolution", "sentence"),
    [
        (Span(86_400, 0), Resolution.DAY, "ends before it starts"),
        (Span(0, SPAN_SECONDS_MAX + 86_400), Resolution.DAY, "longer than 800 days"),
        (Span(0, 3_600), Resolution.DAY, "edge of 86400 seconds"),
        (Span(1, 300), Resolution.FIVE_MINUTES, "edge of 300 seconds"),
    ],
)
def test_a_span_that_cannot_be_asked_is_refused(house, asked, resolution, sentence):
    with pytest.raises(BandmeterError, match=sentence):
        house.reports.answer(UsageQuestion("acme", asked, resolution=resolution))
    if resolution is Resolution.FIVE_MINUTES or "edge" not in sentence:
        with pytest.raises(BandmeterError, match=sentence):
            house.reports.answer(CostQuestion("acme", (Span(0, 300), asked)))


def test_the_longest_span_may_be_asked(house):
    assert house.reports.answer(UsageQuestion("acme", Span(0, SPAN_SECONDS_MAX))).zones


# ---------------------------------------------------------------- cost


def test_each_month_has_the_price_in_force_in_it(house):
    """A new price never changes a past month, and a span's cost is the sum of its months' parts."""
    house.price("1", None)
    house.price("2", "2026-02")
    house.carry(house.zone, "2026-01-31T23:55:00", GB)
    house.carry(house.zone, "2026-02-01T00:00:00", 0, GB)
    assert [c.amount for c in house.cost(span("2026-01-01", "2026-02-01"), span("2026-02-01", "2026-03-01"))] == [1, 2]
    assert house.cost(span("2026-01-15T12:05", "2026-02-15T00:10"))[0].amount == 3
    assert house.cost(span("2026-02-01T00:05", "2026-03-01"))[0].amount == 0


def test_the_zones_own_plan_goes_before_the_accounts(house):
    house.price("1", None)
    house.price("5", None, "static")
    other = house.catalog.add_zone("acme", "b", now_s=0)
    for zone in (house.zone, other):
        house.carry(zone, "2026-01-01", GB)
    answer = house.reports.answer(CostQuestion("acme", (span("2026-01-01", "2026-01-02"),)))
    assert {c.zone.name: c.costs[0].amount for c in answer.zones} == {"static": 5, "b": 1}
    assert answer.currency == "USD"


def test_without_a_plan_nothing_costs_and_nothing_is_billed(house):
    house.carry(house.zone, "2026-01-01", GB)
    (cost,) = house.cost(span("2026-01-01", "2026-01-02"))
    assert (cost.bytes, cost.amount, cost.unit) == (GB, 0, "")


@pytest.mark.parametrize(
    ("until", "amount"), [("2026-01-10T00:00", 2), ("2026-01-10T00:01", 1), ("2026-02-01", 1), ("2026-02-02", 0)]
)
def test_trial_traffic_is_listed_and_free(tmp_path, until, amount):
    """The trial ends at the next 5-minute edge, because traffic inside a bucket cannot be told apart."""
    house = House(tmp_path)
    house.catalog.add_account(dataclasses.replace(Account("trying"), trial_until_s=at(until)))
    zone = house.catalog.add_zone("trying", "static", now_s=0)
    house.catalog.set_plan("trying", None, "per_gb", {"price": "1"}, now_s=0)
    for time in ("2026-01-09T23:55", "2026-01-10T00:00", "2026-02-01T00:00"):
        house.carry(zone, time, GB)
    (found,) = house.reports.answer(CostQuestion("trying", (span("2026-01-01", "2026-03-01"),))).zones
    house.catalog.close()
    assert (found.costs[0].bytes, found.costs[0].amount) == (3 * GB, amount)


def test_costs_are_exact_to_the_last_digit(house):
    """No rounding inside: with 28 digits, Python's default, the first month's byte would be lost in the second's."""
    house.price("0.000000000001", None)
    house.price("9999999", "2026-02")
    house.carry(house.zone, "2026-01-01", 1)
    house.carry(house.zone, "2026-02-01", 2**60)
    (cost,) = house.cost(span("2026-01-01", "2026-03-01"))
    assert Fraction(cost.amount) == Fraction(2**60 * 9_999_999, 10**9) + Fraction(1, 10**21)


@pytest.mark.parametrize("network", ["dc", "serp", "unlocker"])
def test_costs_tell_requests_from_successful_ones(house, network):
    """The requests are those that usage shows (law 6); who bills successes finds them beside."""
    zone = house.catalog.add_zone("acme", "z", network, now_s=0)
    house.carry(zone, "2026-01-01", 1, requests=10, successes=7)
    (cost,) = house.cost(span("2026-01-01", "2026-01-02"), zone="z")
    assert (cost.requests, cost.successes) == (10, 7)


def test_cost_is_of_the_billed_side(house):
    cdn = house.catalog.add_zone("acme", "cdn.example", "cdn", now_s=0)
    house.carry(cdn, "2026-01-01", 5, 5, client=(1, 1, 2, 3))
    assert house.cost(span("2026-01-01", "2026-01-02"), zone="cdn.example")[0].bytes == 5


# ---------------------------------------------------------------- days

JANUARY = span("2026-01-01", "2026-02-01")


def days(house, asked: Span = JANUARY, **more):
    """Zone → day of the month → cost."""
    answer = house.reports.answer(DailyCostQuestion("acme", asked, **more))
    return {
        zone.zone.name: {dt.datetime.fromtimestamp(day, dt.UTC).day: amount for day, amount in zone.amounts.items()}
        for zone in answer.zones
    }


def test_days_cost_what_their_traffic_costs_and_others_are_absent(house):
    house.price("2", None)
    for time in ("2025-12-31T23:55", "2026-01-01", "2026-01-03T12:00", "2026-01-03T23:55", "2026-02-01"):
        house.carry(house.zone, time, GB)
    assert days(house) == {"static": {1: 2, 3: 4}}


def test_days_are_of_the_zones_asked_each_once(house):
    """Deleted ones too; by name, by network, or by both."""
    house.price("1", None)
    for name, network in (("a", "res"), ("b", "res"), ("c", "dc")):
        house.carry(house.catalog.add_zone("acme", name, network, now_s=0), "2026-01-02", GB)
    house.catalog.set_zone_status("acme", "a", ZoneStatus.DELETED)
    once = {2: 1}
    assert days(house) == {"a": once, "b": once, "c": once, "static": {}}
    assert days(house, zones=("b", "c", "b")) == {"b": once, "c": once}
    assert days(house, networks=frozenset({"res"})) == {"a": once, "b": once}
    assert days(house, zones=("b", "c"), networks=frozenset({"dc", "isp"})) == {"c": once}
    assert days(house, zones=()) == days(house, networks=frozenset()) == {}


def test_too_many_days_of_too_many_zones_are_refused(house, monkeypatch):
    """Counted before anything is read, over the zones that are left."""
    monkeypatch.setattr("bandmeter.reports.costs.DAILY_COSTS_MAX", 31)
    house.catalog.add_zone("acme", "b", "res", now_s=0)
    assert days(house, networks=frozenset({"res"})) == {"b": {}}
    with pytest.raises(BandmeterError, match="2 zones for 31 days are too many at once") as caught:
        days(house)
    assert caught.value.code == errors.PARAMETER_INVALID


def test_days_are_asked_on_edges_of_days(house):
    with pytest.raises(BandmeterError, match="edge of 86400 seconds"):
        days(house, Span(JANUARY.start, JANUARY.end - 300))


# ---------------------------------------------------------------- balance


def test_balance_is_prepayment_less_past_months_less_the_running_one(house):
    house.price("1", None)
    house.catalog.add_zone("acme", "idle", now_s=0)
    for time, gigabytes in (
        ("2022-02-28T23:55", 2),
        ("2025-12-31T23:55", 3),
        ("2026-01-01T00:00", 4),
        ("2026-01-31T23:55", 5),
    ):
        house.carry(house.zone, time, gigabytes * GB)
    balance = house.reports.answer(BalanceQuestion("acme", at("2026-01-15T10:00")))
    assert balance == (Decimal(100 - 2 - 3 - 9), 0, 100, 9)
