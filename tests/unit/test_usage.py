"""Counters, dimensions and outcomes."""

from __future__ import annotations

import itertools

import pytest

from bandmeter.domain import usage
from bandmeter.domain.usage import DIMENSIONS, ZERO, Columns, Counters, Measure, Outcomes, Row, Side


def test_counters_add_up_with_a_zero_in_any_order():
    a, b, c = Counters(1, 2, 3, 4), Counters(2**62, 0, 5, 7), Counters(*[2**63] * 4)
    assert a.plus(ZERO) == a
    assert a.plus(b) == b.plus(a)
    assert a.plus(b).plus(c) == a.plus(b.plus(c))
    assert c.plus(c) == Counters(*[2**64] * 4)


def test_outcomes_add_up():
    whole = Outcomes(15, 5, 4, 3, 2, 1)
    assert whole.adds_up
    assert whole.plus(whole).minus(whole) == whole
    for name in Outcomes._fields:
        assert not whole._replace(**{name: 99}).adds_up


def test_dimensions_do_not_overlap_and_have_room():
    bits = [(1 << d.bits) - 1 << d.shift for d in DIMENSIONS.values()]
    for a, b in itertools.combinations(bits, 2):
        assert a & b == 0
    for d in DIMENSIONS.values():
        assert len(d.values) <= 1 << d.bits
    assert sum(bits) < 1 << 11  # as the store's keys assume


def test_what_is_packed_is_unpacked():
    every = itertools.product(*(d.values for d in DIMENSIONS.values()))
    packed = set()
    for values in every:
        named = dict(zip(DIMENSIONS, values, strict=True))
        code = usage.pack(**named)
        packed.add(code)
        assert usage.unpack(code) == named
    assert len(packed) == 3 * 3 * 9 * 4 * 2
    assert usage.unpack(0) == usage.unpack(usage.pack())
    with pytest.raises(ValueError, match="tuple"):
        usage.pack(scheme="gopher")


def test_stored_codes_never_change():
    """They are in every store on disk: append values, never reorder them."""
    assert (
        usage.pack(scheme="https", ip_version="6", network="cdn", access="cloud_lpm", pool="extra")
        == 2 | 2 << 2 | 8 << 4 | 3 << 8 | 1 << 10
    )
    assert usage.pack(scheme="http", ip_version="4", network="res", access="bext") == 1 | 1 << 2 | 3 << 4 | 2 << 8
    assert usage.OTHERS == "(beyond the daily bound)"


def test_a_selection_fits_the_rows_it_means():
    chosen = usage.select(Measure.BYTES, [("scheme", "https"), ("network", "unknown")])
    for values in itertools.product(("http", "https"), ("unknown", "res"), ("4", "6")):
        code = usage.pack(scheme=values[0], network=values[1], ip_version=values[2])
        assert (code & chosen.mask == chosen.bits) == (values[:2] == ("https", "unknown"))
    with pytest.raises(ValueError, match="tuple"):
        usage.select(Measure.BYTES, [("scheme", "gopher")])


def test_columns_are_rows():
    assert Columns().rows == []
    assert Columns([1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]).rows == [
        Row(1, 3, 5, 7, 9, 11),
        Row(2, 4, 6, 8, 10, 12),
    ]


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("kind", [usage.UNSIDED, usage.SIDED])
def test_a_claimed_row_goes_to_the_side_that_the_zone_bills(side, kind):
    row = (-4, 300, usage.pack(scheme="https"), 1, 2, 3, 4, 5, 6, 7, 8)
    zone, bucket, dimensions, *counters = usage.claimed(row, kind, 9, side, "isp")
    assert (zone, bucket) == (9, 300)
    assert usage.unpack(dimensions)["network"] == "isp"
    swaps = kind == usage.UNSIDED and side is Side.CLIENT
    assert counters == ([5, 6, 7, 8, 1, 2, 3, 4] if swaps else [1, 2, 3, 4, 5, 6, 7, 8])


def test_a_claimed_rows_own_network_stays():
    row = (-4, 300, usage.pack(network="mobile"), *[1] * 8)
    assert usage.unpack(usage.claimed(row, usage.SIDED, 9, Side.TARGET, "isp")[2])["network"] == "mobile"
