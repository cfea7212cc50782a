"""Prices: plans are checked where they come in, and costs are exact."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmeter.domain import errors, money
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Counters
from bandmeter.pricing import PRICES

PER_GB = PRICES["per_gb"]


def test_the_table_names_each_price_by_its_own_name():
    assert all(name == price.name for name, price in PRICES.items())


@pytest.mark.parametrize(
    ("fields", "traffic", "cost"),
    [
        ({"price": "0.42"}, Counters(1, 1, 5 * 10**8, 5 * 10**8), "0.42"),
        ({"plan": "per_gb", "price": "0.42", "unit": "GB"}, Counters(1, 1, 1, 0), "0.00000000042"),
        ({"price": "1", "unit": "GiB"}, Counters(1, 1, 2**30, 0), "1"),
        ({"price": "1", "unit": "GiB"}, Counters(1, 1, 2**29, 2**28), "0.75"),
        ({"price": 3}, Counters(9, 9, 0, 10**9), "3"),
        ({"price": 0.1}, Counters(0, 0, 3 * 10**9, 0), "0.3"),
        ({"price": 1e-7}, Counters(0, 0, 10**9, 0), "0.0000001"),
        ({"price": Decimal("0.07")}, Counters(0, 0, 10**9, 0), "0.07"),
        ({"price": "0"}, Counters(5, 5, 2**60, 2**60), "0"),
        ({"price": "9999999"}, Counters(0, 0, 2**62, 0), None),
    ],
)
def test_per_gb_costs_bytes_both_ways_times_price(fields, traffic, cost):
    """GB is 10^9 and GiB 2^30 bytes; a JSON number means what its author wrote."""
    expected = Decimal(cost) if cost else money.EXACT.multiply(Decimal(2**62), Decimal("0.009999999"))
    assert PER_GB.cost(PER_GB.parse(fields), traffic) == expected


@given(st.integers(0, 2**63), st.integers(0, 2**63), st.integers(0, 9_999_999 * 10**12), st.sampled_from(["GB", "GiB"]))
def test_per_gb_adds_up_exactly(a, b, price, unit):
    """The cost of a whole is the sum of its parts' costs, to the last digit (`is_summable`)."""
    plan = PER_GB.parse({"price": f"{price // 10**12}.{price % 10**12:012}", "unit": unit})
    parts = money.add(PER_GB.cost(plan, Counters(0, 0, a, 0)), PER_GB.cost(plan, Counters(0, 0, 0, b)))
    assert PER_GB.cost(plan, Counters(0, 0, a, b)) == parts


NO_TEXT = [
    "",
    "-1",
    "+1",
    "1,5",
    " 1",
    "1 ",
    "1.",
    ".5",
    "NaN",
    "Infinity",
    "1e999",
    "10000000",
    "0.0000000000001",
    "٣",
    "0x1",
]
NO_NUMBER = [-1, 10**7, 10**5000, -(10**5000), 1e300, float("nan"), float("inf"), -0.5, Decimal(-1), Decimal("1e-13")]


@pytest.mark.parametrize("price", [*NO_TEXT, *NO_NUMBER, True, None, [], {}], ids=lambda price: type(price).__name__)
def test_a_price_that_is_no_bounded_decimal_is_refused(price):
    with pytest.raises(BandmeterError, match=r"^price of a per_gb plan takes ") as caught:
        PER_GB.parse({"price": price})
    assert caught.value.code == errors.INPUT_INVALID


@pytest.mark.parametrize("unit", ["gb", "TB", "", 1, None, ["GB"]])
def test_another_unit_is_refused(unit):
    with pytest.raises(BandmeterError, match=r"^unit of a per_gb plan takes "):
        PER_GB.parse({"price": "1", "unit": unit})


def test_a_plan_without_a_price_or_with_a_strange_field_is_refused():
    with pytest.raises(BandmeterError, match=r"^price "):
        PER_GB.parse({"unit": "GB"})
    with pytest.raises(BandmeterError, match=r"'prise' is no field"):
        PER_GB.parse({"prise": "1"})


@pytest.mark.parametrize(
    ("amount", "places", "shown"),
    [
        ("0.67725", 4, "0.6773"),
        ("0.67724999", 4, "0.6772"),
        ("-0.00005", 4, "-0.0001"),
        ("-0.00004", 4, "0"),
        ("1E+5", 4, "100000"),
        ("50.6400", 4, "50.64"),
        ("123456789012345678901234567890.12345", 4, "123456789012345678901234567890.1235"),
    ],
)
def test_money_is_rounded_half_up_and_shown_plainly(amount, places, shown):
    """One rounding, half away from zero; no trailing zeros, no exponent, no minus zero."""
    assert str(money.rounded(Decimal(amount), places)) == shown
