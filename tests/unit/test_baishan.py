"""BaishanCloud's headers, and rounding that is exact whatever the size."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandmeter.dialects import baishan
from bandmeter.domain import errors
from bandmeter.domain.contracts import Limit, Reply
from bandmeter.domain.errors import BandmeterError
from bandmeter.service import configure

DIALECT = baishan.build("Asia/Shanghai")
ENDPOINTS = {endpoint.name: endpoint for endpoint in DIALECT.endpoints}
LIMITS = {
    "X-Ratelimit-Grad": "minute",
    "X-Ratelimit-Limit": "300",
    "X-Ratelimit-Remaining": "299",
    "X-Retry-After": "21",
}


@given(st.integers(0, 2**80), st.integers(60, 100_000))
def test_bits_a_second_are_the_nearest_hundredth(count, seconds):
    """Half up, from the bytes."""
    exact = Fraction(count * 8, seconds) * 100
    shown = baishan.hundredths(count, seconds)
    assert exact - Fraction(1, 2) < shown <= exact + Fraction(1, 2)


@given(st.lists(st.integers(0, 2**50), min_size=1, max_size=20), st.booleans())
def test_points_are_each_from_their_own_bytes(values, is_five_minutes):
    """With the stamp of their bucket, and without the zeros."""
    edges = range(0, 300 * len(values) + 1, 300)
    shown = baishan._points("bandwidth", edges if is_five_minutes else list(edges), edges[:-1], values)
    hundredths = {edge: baishan.hundredths(value, 300) for edge, value in zip(edges, values, strict=False)}
    assert [(stamp, round(value * 100)) for stamp, value in shown] == [p for p in hundredths.items() if p[1]]


@pytest.mark.parametrize(
    ("name", "number"),
    [("bandwidth", "1039"), ("bandwidth_each", "1043"), ("request_each", "1191")],
)
def test_every_answer_carries_its_endpoint_and_the_limit(name, number):
    """As the vendor documents; so do errors."""
    for reply in (Reply(b"{}"), DIALECT.render_error(BandmeterError(errors.RATE_LIMITED, ""))):
        signed = DIALECT.sign(reply, ENDPOINTS[name], Limit(300, 299, 21))
        assert dict(signed.headers) == {"Api-Id": number} | LIMITS
    assert dict(DIALECT.sign(Reply(b"{}"), ENDPOINTS[name], None).headers) == {"Api-Id": number}


def test_a_401_carries_neither():
    """It is about no token of ours."""
    reply = DIALECT.render_error(BandmeterError(errors.KEY_INVALID, ""))
    assert DIALECT.sign(reply, ENDPOINTS["bandwidth"], Limit(300, 299, 21)) == reply


def test_each_endpoint_has_an_id():
    assert set(baishan.API_IDS) == set(ENDPOINTS)
    assert len(set(baishan.API_IDS.values())) == len(ENDPOINTS)


def test_a_timezone_that_is_none_stops_the_start(tmp_path, monkeypatch):
    monkeypatch.setenv("BANDMETER_DIALECTS_BAISHAN_TIMEZONE", "Mars/Base")
    with pytest.raises(BandmeterError, match="baishan_timezone") as caught:
        configure(str(tmp_path))
    assert caught.value.code == errors.INPUT_INVALID
