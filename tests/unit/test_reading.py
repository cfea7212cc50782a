"""How a source says that its lines are read: which side, spread over time, adjusted, whose; each to the byte."""

from __future__ import annotations

import json
import random

import pytest

from bandmeter.config.tables import read_source
from bandmeter.domain import errors
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Resolution
from bandmeter.domain.usage import Outcomes, Side

DAY = 1_795_132_800  # 2026-11-20T00:00:00Z
STEP = 300


def line(**more):
    record = {"time": DAY, "account": "acme", "zone": "res", "bytes_up": 1, "bytes_down": 10} | more
    return json.dumps(record).encode() + b"\n"


def rows(meter, resolution=Resolution.FIVE_MINUTES, zone=("acme", "res"), side=Side.TARGET):
    """bucket → (requests, successes, up, down)."""
    return {row[0]: tuple(row[2:]) for row in meter.rows().get((zone, side, resolution), ())}


# ---------------------------------------------------------------- spread


def test_a_long_record_lies_evenly_and_its_last_bucket_has_the_rest(meter):
    """Down to the byte: 101 over three buckets is 33, 33 and 35; the request and its success are in the last."""
    meter.feed(line(time=DAY + 2 * STEP + 10, duration=2 * STEP, bytes_up=101, bytes_down=3, status=200), spread=True)
    assert rows(meter) == {DAY: (0, 0, 33, 1), DAY + STEP: (0, 0, 33, 1), DAY + 2 * STEP: (1, 1, 35, 1)}
    assert rows(meter, Resolution.HOUR) == {DAY: (1, 1, 101, 3)}
    assert meter.outcomes() == Outcomes(1, counted=1)


@pytest.mark.parametrize(
    ("end", "duration", "buckets"),
    [
        (0, 0, [0]),
        (0, 0.001, [-1, 0]),
        (299.999, 299.999, [0]),
        (299.999, 300, [-1, 0]),
        (300, 300, [0, 1]),
        (300, 299.999, [0, 1]),
        (599, 1, [1]),
    ],
)
def test_the_edges_of_buckets(meter, end, duration, buckets):
    """From the bucket in which it began to the one in which it ended."""
    meter.feed(line(time=f"{DAY + end:.3f}", duration=duration, bytes_up=1_000), spread=True)
    assert list(rows(meter)) == [DAY + bucket * STEP for bucket in buckets]
    assert sum(row[2] for row in rows(meter).values()) == 1_000


def test_over_hours_days_and_months(meter):
    """A tunnel of 40 days, and one over the turn of the month: each resolution has its part, and all have the sum."""
    december = 1_796_083_200  # 2026-12-01T00:00:00Z
    meter.now_ms = (december + 86_400 * 60) * 1000
    hours = line(time=december + 3_600 - 0.001, duration=7_199.999, bytes_up=24_000_000_007, bytes_down=0)
    assert meter.feed(hours, spread=True).outcomes.counted == 1
    assert rows(meter, Resolution.HOUR) == {
        december - 3_600: (0, 0, 12_000_000_000, 0),
        december: (1, 0, 12_000_000_007, 0),
    }
    assert rows(meter, Resolution.DAY) == {
        december - 86_400: (0, 0, 12_000_000_000, 0),
        december: (1, 0, 12_000_000_007, 0),
    }
    end = december + 50 * 86_400
    meter.feed(line(time=end, duration=40 * 86_400, bytes_up=10**12 + 1, bytes_down=0), spread=True)
    assert meter.total(meter.zones[0]) == (2, 0, 24_000_000_007 + 10**12 + 1, 0)
    days = rows(meter, Resolution.DAY)
    assert min(bucket for bucket in days if bucket > december) == end - 31 * 86_400  # what is older lies in the first


def test_random_tunnels_add_up(meter):
    seed = random.randrange(10**6)
    print("seed", seed)  # noqa: T201 - shown when it fails
    dice = random.Random(seed)
    sent = [
        (DAY - dice.randrange(86_400), dice.choice([0, 1, 299, 300, 86_400, 10**6]), dice.randrange(2**50))
        for _ in range(50)
    ]
    meter.feed(b"".join(line(time=t, duration=d, bytes_up=up, bytes_down=0) for t, d, up in sent), spread=True)
    assert meter.total(meter.zones[0]) == (50, 0, sum(up for _, _, up in sent), 0)
    for resolution in Resolution:
        assert sum(row[2] for row in rows(meter, resolution).values()) == sum(up for _, _, up in sent)


def test_without_spread_all_is_in_the_last_bucket(meter):
    meter.feed(line(time=DAY + 2 * STEP, duration=2 * STEP, bytes_up=101))
    assert rows(meter) == {DAY + 2 * STEP: (1, 0, 101, 10)}


@pytest.mark.parametrize(("duration", "rejected"), [(-1, 1), ("x", 1), (367 * 86_400, 1), (None, 0)])
def test_a_duration_that_is_none(meter, duration, rejected):
    """A record that must be spread and cannot be is rejected; one that says no duration has none."""
    assert meter.feed(line(duration=duration), spread=True).outcomes.rejected == rejected


# ---------------------------------------------------------------- side

BOTH = {"target_bytes_up": 1, "target_bytes_down": 2, "client_bytes_up": 30, "client_bytes_down": 40}


@pytest.mark.parametrize(
    ("side", "target", "client"),
    [
        (None, (1, 0, 1, 2), (1, 0, 30, 40)),
        (Side.TARGET, (1, 0, 1, 2), (0, 0, 0, 0)),
        (Side.CLIENT, (0, 0, 0, 0), (1, 0, 30, 40)),
    ],
)
def test_a_source_of_one_side_counts_no_other(meter, side, target, client):
    """So that two logs of the same traffic, one for each side, do not count it twice."""
    meter.feed(line(bytes_up=None, bytes_down=None, **BOTH), side=side)
    assert meter.total(meter.zones[0], Side.TARGET) == target
    assert meter.total(meter.zones[0], Side.CLIENT) == client


@pytest.mark.parametrize("side", list(Side))
def test_bytes_that_name_no_side_are_the_sources(meter, side):
    meter.feed(line(), side=side)
    assert meter.total(meter.zones[0], side) == (1, 0, 1, 10)
    other = Side.CLIENT if side is Side.TARGET else Side.TARGET
    assert meter.total(meter.zones[0], other) == (0, 0, 0, 0)


# ---------------------------------------------------------------- header_adjust


@pytest.mark.parametrize(
    ("fields", "up"),
    [
        ({"scheme": "http", "target_bytes_up": 245}, 175),
        ({"scheme": "http", "target_bytes_up": 69}, 0),
        ({"scheme": "http", "target_bytes_up": 1_000, "requests": 5}, 650),
        ({"scheme": "https", "target_bytes_up": 245}, 245),
        ({"target_bytes_up": 245}, 245),
    ],
)
def test_a_header_is_adjusted_of_plain_http_only(meter, fields, up):
    """And never below nothing. The client's bytes are what they are."""
    meter.feed(line(bytes_up=None, bytes_down=None, **BOTH | fields), header_adjust_bytes=-70)
    requests = fields.get("requests", 1)
    assert meter.total(meter.zones[0]) == (requests, 0, up, 2)
    assert meter.total(meter.zones[0], Side.CLIENT) == (requests, 0, 30, 40)


def test_what_cannot_be_read_is_not_adjusted_into_nothing(meter):
    """A missing or broken number is a reject, as without it."""
    broken = [None, "many", -1]
    lines = [
        line(scheme="http", bytes_up=None, bytes_down=None, target_bytes_up=up, target_bytes_down=1) for up in broken
    ]
    assert meter.feed(b"".join(lines), header_adjust_bytes=70).outcomes == Outcomes(3, rejected=3)


# ---------------------------------------------------------------- whose


def test_a_sources_own_identities_go_before_those_of_zones(meter):
    """It may take one from whoever has registered it, in its own lines."""
    dc, other = meter.add_zone("acme", "dc", identities=["alice"]), meter.add_zone("other", "dc")
    content = b"".join(line(account=None, zone=None, identity=name) for name in ("alice", "bob", "carol"))
    rules = (("alice", "other", "dc"), ("bob", "acme", "dc"))
    assert meter.feed(content, rules=rules, source_name="a").outcomes == Outcomes(3, counted=2, unattributed=1)
    assert (meter.total(dc).requests, meter.total(other).requests) == (1, 1)
    assert meter.feed(content, source_name="b").outcomes == Outcomes(3, counted=1, unattributed=2)
    assert (meter.total(dc).requests, meter.total(other).requests) == (2, 1)


def test_a_source_of_one_zone(meter):
    """Has all of its records, but those that name another themselves."""
    dc = meter.add_zone("acme", "dc")
    content = b"".join(line(account=None, zone=None, identity=name) for name in ("shop.test", "nobody", None)) + line()
    assert meter.feed(content, account="acme", zone="dc").outcomes.counted == 4
    assert (meter.total(dc).requests, meter.total(meter.zones[0]).requests) == (3, 1)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"account": "acme"}, "belong together"),
        ({"side": "both"}, "target or client"),
        ({"spread": "odd"}, "end or even"),
        ({"header_adjust": 10_001}, "10000"),
        ({"header_adjust": True}, "whole number"),
        ({"zones": {"alice": "acme"}}, "ACCOUNT/ZONE"),
        ({"zones": {"alice": "/dc"}}, "ACCOUNT/ZONE"),
        ({"zones": ["alice"]}, "table"),
        ({"spraed": "even"}, "no such setting"),
    ],
)
def test_a_setting_that_is_none_is_named(setting, sentence):
    with pytest.raises(BandmeterError, match=sentence) as caught:
        read_source({"name": "n", "format": "squid", "path": "p"} | setting, "source[0]", "file")
    assert caught.value.code == errors.INPUT_INVALID
