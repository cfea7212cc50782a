"""Evomi's figures: MB of 10^6 bytes, each rounded from its own bytes."""

from __future__ import annotations

import json
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from bandmeter.dialects import evomi
from bandmeter.domain.contracts import Call
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import Basis, Questions, UsageAnswer, UsageQuestion, ZoneUsage
from bandmeter.domain.tenancy import Account, Zone
from bandmeter.domain.usage import Columns, pack

NOW_S = 1_780_000_000
DAYS = [NOW_S // 86_400 * 86_400 - n * 86_400 for n in (2, 1, 0)]
counts = st.integers(0, 2**60)


@given(st.integers(0, 2**80))
def test_megabytes_are_the_nearest_hundredth(count):
    """Half up, without trailing zeros or exponents."""
    shown = evomi.megabytes(count)
    exact = Fraction(count, 10**6)
    assert exact - Fraction(1, 200) < Fraction(shown) <= exact + Fraction(1, 200)
    assert shown == Decimal(count).scaleb(-6).quantize(Decimal("0.01"), ROUND_HALF_UP)
    assert "E" not in str(shown)


def answered(rows) -> dict:
    columns = Columns._make(zip(*rows, strict=True)) if rows else Columns()
    call = Call(Account("acme", email_verified=True), {"product": "rpc"}, NOW_S * 1000)
    span = Span(DAYS[0], DAYS[-1] + 86_400)
    carried = UsageAnswer([ZoneUsage(Zone(1, "acme", "z"), columns)], None, None, Basis((1,), 1))
    question = Questions((UsageQuestion("acme", span, resolution=Resolution.DAY),))
    return json.loads(
        evomi._render_usage(call, question, [carried, UsageAnswer([], None, None, Basis((1,), 1))]).body,
        parse_float=Decimal,
    )


@given(st.lists(st.tuples(counts, counts), min_size=3, max_size=3))
def test_each_figure_is_rounded_from_its_own_bytes(days):
    """A bucket's parts, its total, and the total of all are never sums of rounded figures."""
    pools = (pack(pool="default"), pack(pool="extra"))
    rows = [
        (day, pool, 1, 1, 0, count)
        for day, pair in zip(DAYS, days, strict=True)
        for pool, count in zip(pools, pair, strict=True)
    ]
    body = answered(rows)
    product = body["data"]["bandwidth"]["products"][0]
    expected = [tuple(map(evomi.megabytes, (default, extra, default + extra))) for default, extra in days]
    assert [(s["default"], s["extra"], s["total"]) for s in product["stats"].values()] == expected
    total = evomi.megabytes(sum(map(sum, days)))
    assert product["totalBandwidth"] == body["meta"]["total_bandwidth_mb"] == total
    assert Fraction(body["meta"]["total_bandwidth_gb"]) == Fraction(total) / 1000
    assert Fraction(body["meta"]["total_bandwidth_tb"]) == Fraction(total) / 10**6
