"""A reject says which field, why, and what would be right, in a sentence that is safe to show."""

from __future__ import annotations

import contextlib
import json
import re

import pytest

from bandmeter.domain.tenancy import Zone
from bandmeter.formats import FORMATS
from bandmeter.ingest.batch.attribute import Caller
from bandmeter.ingest.batch.explain import REASONS, SHOWN_LENGTH_MAX
from bandmeter.ingest.batch.tools import Tools
from bandmeter.ingest.posts.poster import Post, Poster
from bandmeter.store import MemoryStore

NOW_MS = 1_795_392_000_000


def explained(meter, line, name="jsonl", **job):
    """The one reject of a file with this line; and the same beside a damaged line, which goes another way."""
    found = []
    for i, dirt in enumerate((b"", b"\0?\n")):
        report = meter.feed(line.encode() + b"\n" + dirt, name, source_name=f"{i}", **job)
        assert report.outcomes.rejected == 1 + i
        found.append(meter.store.rejects(report.source, 1)[0][2:5])
    assert found[0][:2] == found[1][:2]
    assert found[0][1] in REASONS
    return found[0]


def squid(**fields):
    columns = dict(zip(FORMATS["squid"].layouts[0].columns, FORMATS["squid"].example.split("\t"), strict=True))
    return "\t".join((columns | fields).values())


@pytest.mark.parametrize(
    ("fields", "field", "reason", "detail"),
    [
        ({"ended": "-"}, "time", "missing_field", "there is no time"),
        ({"ended": "soon"}, "time", "bad_time", "ended is 'soon'; a time is Unix seconds, or RFC 3339 with its offset"),
        ({"ended": "1795392601.000"}, "time", "in_future", "the time is 601 s ahead of this machine's clock"),
        ({"received": "-"}, "target_bytes_up", "missing_field", "there is no received"),
        ({"received": "12a"}, "target_bytes_up", "bad_number", "received is '12a'; it takes a whole number"),
        ({"received": "-5"}, "target_bytes_up", "negative", "target_bytes_up is -5"),
        (
            {"received": "1125899906842625"},
            "target_bytes_up",
            "too_large",
            "is 1125899906842625; at most 1125899906842624",
        ),
        (
            {"received": "9" * 20},
            "target_bytes_up",
            "too_large",
            "received is '99999999999999999999'; at most 1125899906842624",
        ),
        ({"received": "9223372036854775807"}, "target_bytes_up", "too_large", "at most 1125899906842624"),
        (
            {"client_status": "4212118431076348780"},
            "status",
            "corrupt",
            "the status is '4212118431076348780'; it is 100 to 599",
        ),
        ({"client_status": "99"}, "status", "corrupt", "'99'"),
        ({"user": "u" * 513}, "identity", "too_large", "the identity has over 512 characters"),
        ({"method": "CONNECT", "received": "10", "received_header": "20"}, "target_bytes_up", "negative", "-10"),
    ],
)
def test_a_column_is_named_with_what_it_holds(meter, fields, field, reason, detail):
    found = explained(meter, squid(**fields), "squid")
    assert found[:2] == (field, reason)
    assert detail in found[2]


def test_long_and_odd_values_are_shown_short_and_harmless(meter):
    """No line of a log can write to the operator's terminal, or fill it."""
    field, reason, detail = explained(meter, squid(ended="\x1b[2J" + "x" * 5000), "squid")
    assert (field, reason) == ("time", "bad_time")
    assert "\x1b" not in detail
    assert "…" in detail
    assert len(detail) < SHOWN_LENGTH_MAX + 150


def test_half_a_pair_and_half_a_name(meter):
    base = {"time": 1_795_132_800, "account": "acme", "zone": "res"}
    assert explained(meter, json.dumps(base | {"bytes_down": 1}))[:2] == ("bytes_up", "missing_field")
    assert explained(meter, json.dumps(base | {"client_bytes_up": 1}))[:2] == ("client_bytes_down", "missing_field")
    base = {"time": 1_795_132_800, "bytes_up": 1, "bytes_down": 1}
    assert explained(meter, json.dumps(base | {"account": "acme"}))[:2] == ("zone", "missing_field")
    assert explained(meter, json.dumps(base | {"zone": "res"}))[:2] == ("account", "missing_field")


def test_the_shape_of_a_line(meter):
    assert explained(meter, "{", "jsonl")[1:] == ("not_json", "the line is no JSON object")
    assert explained(meter, "what", "combined")[1] == "torn_line"
    assert explained(meter, "a\tb", "haproxy")[1] == "torn_line"
    assert "2 columns" in explained(meter, "c\td", "squid")[2]
    line = FORMATS["haproxy"].example.replace("\t1251\t", "\t+1251\t")
    assert "option logasap" in explained(meter, line, "haproxy")[2]


def test_the_edge_of_the_future(meter):
    """Ten minutes ahead count, a millisecond more does not; the clock is asked for each batch."""
    base = {"account": "acme", "zone": "res", "bytes_up": 1, "bytes_down": 1}
    edge = meter.now_ms // 1000 + 600
    assert meter.feed(json.dumps(base | {"time": edge}).encode() + b"\n").outcomes.counted == 1
    assert explained(meter, json.dumps(base | {"time": f"{edge}.001"}))[:2] == ("time", "in_future")
    meter.now_ms += 1
    assert meter.feed(json.dumps(base | {"time": f"{edge}.001"}).encode() + b"\n").outcomes.counted == 1


@pytest.mark.parametrize(
    ("time", "hint"),
    [
        (1_795_132_800_123, ": it looks like milliseconds, and is read as seconds"),
        (1_795_132_800_123_456, ": it looks like microseconds, and is read as seconds"),
        (1_795_992_000, ""),
        (999_999_999_999, ""),  # this many milliseconds were in 2001: who writes it means something else
    ],
)
def test_a_time_that_is_finer_than_seconds_is_known_by_its_size(meter, time, hint):
    found = explained(meter, json.dumps({"time": time, "identity": "u", "bytes_up": 1, "bytes_down": 1}))
    assert found[:2] == ("time", "in_future")
    assert found[2] == f"the time is {time - NOW_MS // 1000} s ahead of this machine's clock{hint}"


@pytest.mark.parametrize(
    ("account", "zone", "command"),
    [
        ("acme", "none", "`bandmeter zone add acme none`"),
        ("acme", "*.test", "`bandmeter zone add acme '*.test'`"),
        ("acme", "", ""),
        ("a b", "c", ""),
        ("acme", "x`reboot`", ""),
    ],
)
def test_a_zone_that_is_missing_comes_with_the_command_that_adds_it(meter, account, zone, command):
    """Where there can be one of that name, so that what can be copied is safe in a shell."""
    record = {"time": 1_795_132_800, "account": account, "zone": zone, "bytes_up": 1, "bytes_down": 1}
    found = explained(meter, json.dumps(record))
    assert found[:2] == ("zone", "unknown_zone")
    assert found[2].startswith(f"there is no zone '{account}/{zone}': ")
    assert found[2].endswith("mend the record")
    assert re.findall("`bandmeter.*`", found[2]) == ([command] if command else [])


@pytest.mark.parametrize(
    ("status", "is_good"), [(99, False), (100, True), (599, True), (600, False), ("-", True), ("000", True)]
)
def test_the_edges_of_a_status(meter, status, is_good):
    outcomes = meter.feed(squid(client_status=str(status)).encode() + b"\n", "squid").outcomes
    assert outcomes.rejected == (not is_good)


@pytest.mark.parametrize(
    ("named", "field", "reason", "detail"),
    [
        (
            {"account": "other", "zone": "res"},
            "zone",
            "unknown_zone",
            "there is no zone 'other/res': add it with `bandmeter zone add other res`, or mend the record",
        ),
        (
            {"zone": "no"},
            "zone",
            "unknown_zone",
            "the key's account has no zone 'no': add it with `bandmeter zone add ACCOUNT no`, or mend the record",
        ),
        (
            {"identity": "bob"},
            "identity",
            "unknown_zone",
            "the identity 'bob' belongs to no zone of the key's account: give it to one with `bandmeter zone claim`",
        ),
        (
            {},
            "identity",
            "missing_field",
            "the record names neither a zone nor an identity, and with the key of an account it takes one",
        ),
    ],
)
@pytest.mark.parametrize("exists", [False, True])
def test_who_speaks_for_one_account_is_told_nothing_of_others(tmp_path, named, field, reason, *, detail, exists):
    """The same of a zone and an identity that another account has, and of those that nobody has."""
    zones = [Zone(1, "acme", "res")] + [Zone(2, "other", "res", identities=("bob",)), Zone(3, "other", "no")] * exists
    record = {"time": 1_795_132_800, "bytes_up": 1, "bytes_down": 1} | named
    store = MemoryStore()
    tools = Tools(store, lambda: zones, lambda: NOW_MS, tmp_path, 1 << 20, version=lambda: 1)
    with contextlib.closing(tools):
        caller = Caller("acme", is_restricted=True)
        (answer,) = Poster(tools).count([Post(FORMATS["jsonl"], json.dumps(record).encode() + b"\n", caller, "s")])
    assert answer["errors"] == [{"line": 1, "field": field, "reason": reason, "detail": detail}]
    assert store.unattributed() == []
