"""The formats: columns, functions that cut and never round, numbers that are whole or nothing."""

from __future__ import annotations

import dataclasses
import json

import duckdb
import pytest

from bandmeter import formats
from bandmeter.domain.contracts import Format, Layout
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.grid import Span
from bandmeter.domain.usage import Outcomes, Side, unpack
from bandmeter.formats import FORMATS, FUNCTIONS
from bandmeter.formats.tsv import with_columns

pytestmark = pytest.mark.usefixtures("each_size")


@pytest.fixture(scope="module")
def sql():
    """Call one of our SQL functions."""
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    for signature, body in FUNCTIONS.items():
        db.execute(f"CREATE MACRO {signature} AS ({body})")
    yield lambda function, *values: db.execute(
        f"SELECT {function}({', '.join('?' * len(values))})", list(values)
    ).fetchone()[0]
    db.close()


NO_NUMBERS = [
    *("", " 7", "7 ", "+7", "-0", "007", "1.0", "1.5", "1e3", "1E3", "0x10", "1_000", "1,000", "9223372036854775808"),
    *("9" * 40, "NaN", "inf", "true", "\u0665", "\u4e03", "-", "\u00a07", "7\n", "0b1", "7.", ".7", "null", None),
]
WHOLE = {
    "0": 0,
    "7": 7,
    "1125899906842624": 2**50,
    "1125899906842625": 2**50 + 1,
    "9223372036854775807": 2**63 - 1,
    "-1": -1,
    **dict.fromkeys(NO_NUMBERS),
}


@pytest.mark.parametrize("text", WHOLE)
def test_a_number_is_whole_or_nothing(sql, text):
    assert sql("whole", text) == WHOLE[text]


NO_TIMES = [
    *(
        "",
        "now",
        "2026-11-20",
        "2026-11-20T00:00:00",
        "2026-11-20T00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
    ),
    *("2026-11-20T00:00:00+25:00", "2026-11-20T00:00:00+05:60", "2026-11-20T25:00:00Z", "2026-11-20T00:61:00Z"),
    "2026-11-20T23:59:60Z",  # a leap second: its bucket is nobody's to guess, so it is told
    *("2026-11-20T00:00:00,5Z", "2026-11-20T00:00:00 Z", "20261120T000000Z", "1.7951328e9", "1795132800,5", ".5"),
    *("1795132800.x", "1795132800.12x", "0x6AFE", "1_795_132_800", None),
]
TIMES = {
    "1795132800": 1_795_132_800_000,
    "1795132800.0": 1_795_132_800_000,
    "1795132800.5": 1_795_132_800_500,
    "1795132800.05": 1_795_132_800_050,
    "1795132800.123": 1_795_132_800_123,
    "1795132800.9995": 1_795_132_800_999,
    "1795132800.9999999": 1_795_132_800_999,
    "1795132799.999999999": 1_795_132_799_999,
    "1795133099.9999": 1_795_133_099_999,  # the last ms of 5 minutes
    "0": 0,
    "1": 1000,
    "0.001": 1,
    "2026-11-20T00:00:00Z": 1_795_132_800_000,
    "2026-11-20t00:00:00z": 1_795_132_800_000,
    "2026-11-20 00:00:00Z": 1_795_132_800_000,
    "2026-11-20T00:04:59.9999999Z": 1_795_133_099_999,
    "2026-11-20T05:45:00+05:45": 1_795_132_800_000,
    "2026-11-19T13:00:00.250-11:00": 1_795_132_800_250,
    "2026-11-20T14:00:00+14:00": 1_795_132_800_000,
    "2026-11-20T00:00:00-00:00": 1_795_132_800_000,
    "2024-02-29T00:00:00Z": 1_709_164_800_000,
    "1970-01-01T00:00:00Z": 0,
    "1969-12-31T23:59:59Z": -1000,
    **dict.fromkeys(NO_TIMES),
}


@pytest.mark.parametrize("text", TIMES)
def test_a_time_is_cut_to_its_millisecond(sql, text):
    assert sql("time_ms_of", text) == TIMES[text]


@pytest.mark.parametrize(
    "text", ["1795132800.9999999", "1795132799.99999999", "1795132800.9995", "1795132800.5", "1795132800"]
)
def test_a_json_number_is_the_time_that_was_written(meter, text):
    """Not the nearest fraction of 2, which may be the next second."""
    for i, form in enumerate((text, f'"{text}"')):
        line = f'{{"time": {form}, "account": "acme", "zone": "res", "bytes_up": 1, "bytes_down": 0}}\n'
        meter.feed(line.encode(), source_name=str(i))
        assert meter.store.freshness([1]).newest_ms == TIMES.get(text, 1_795_132_799_999)
    meter.feed(f"time\tidentity\tbytes_up\tbytes_down\n{text}\tshop.test\t1\t1\n".encode(), "tsv")
    assert meter.store.freshness([2]).newest_ms == TIMES.get(text, 1_795_132_799_999)


@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        ("given", ("-",), None),
        ("given", ("",), None),
        ("given", ("x",), "x"),
        ("status_of", ("200",), 200),
        ("status_of", ("000",), None),
        ("status_of", ("-",), None),
        ("status_of", ("0200",), -1),
        ("status_of", ("abc",), -1),
        ("ip_version_of", ("::1",), "6"),
        ("ip_version_of", ("::ffff:1.2.3.4",), "6"),
        ("ip_version_of", ("127.0.0.1",), "4"),
        ("ip_version_of", ("-",), None),
        ("domain_of", ("Shop.TEST:8080",), "shop.test"),
        ("domain_of", ("shop.test.",), "shop.test"),
        ("domain_of", ("[::1]:80",), "[::1]"),
        ("domain_of", ("-",), None),
        ("domain_of", ("",), None),
        ("user_of_basic", ("Basic YTpi",), "a"),
        ("user_of_basic", ("basic  YTpi ",), "a"),
        ("user_of_basic", ("Basic YTpiOmM=",), "a"),
        ("user_of_basic", ("Basic OmI=",), None),
        ("user_of_basic", ("Basic !!!",), None),
        ("user_of_basic", ("Basic /w==",), None),  # no UTF-8
        ("user_of_basic", ("Bearer YTpi",), None),
        ("user_of_basic", (None,), None),
        ("sum_of", ("96",), 96),
        ("sum_of", ("0, 86",), 86),
        ("sum_of", ("1, 2 : 3",), 6),
        ("sum_of", ("-, 5",), 5),
        ("sum_of", ("-",), 0),
        ("sum_of", ("",), 0),
        ("sum_of", ("1,2",), None),
        ("sum_of", ("1, -2",), None),
        ("sum_of", ("x",), None),
    ],
)
def test_functions(sql, function, values, expected):
    assert sql(function, *values) == expected


# format → its example's owner, time, and (requests, successes, up, down) at the target and at the client
EXAMPLES = {
    "jsonl": (("acme", "res2"), 1_795_154_400_250, (1, 1, 512, 20480), None),
    "cloudevents": (("acme", "res2"), 1_795_154_400_250, (1, 0, 512, 20480), None),
    "squid": (("acme", "res2"), 1_795_307_202_616, (1, 1, 245, 1292), (1, 1, 245, 1292)),
    "nginx": (("acme", "shop.test"), 1_795_307_654_781, (1, 1, 96, 1159), (1, 1, 102, 1188)),
    "haproxy": (("acme", "res2"), 1_795_307_459_248, (1, 1, 240, 1251), (1, 1, 240, 1251)),
    "trafficserver": (("acme", "res2"), 1_795_307_821_274, (1, 1, 247, 1159), (1, 1, 245, 1199)),
    "varnish": (("acme", "shop.test"), 1_795_307_957_672, None, (1, 1, 102, 1263)),
    "envoy": (("acme", "res2"), 1_795_307_953_741, (1, 1, 80, 100_204), (1, 1, 247, 100_275)),
    "squid-native": (("wayne", "isp62"), 1_795_132_800_401, (1, 1, 0, 29547), (1, 1, 0, 29547)),
    "combined": (("acme", "web1"), 1_795_154_400_000, (1, 1, 0, 5120), None),
}


def test_every_format_has_an_example():
    assert {*EXAMPLES, "tsv"} == set(FORMATS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_line_is_what_it_says(meter, name):
    owner, time_ms, target, client = EXAMPLES[name]
    zone = next((z for z in meter.zones if (z.account, z.name) == owner), None) or meter.add_zone(*owner)
    assert meter.feed(FORMATS[name].example.encode() + b"\n", name).outcomes == Outcomes(1, counted=1)
    for side, counters in ((Side.TARGET, target), (Side.CLIENT, client)):
        assert tuple(meter.total(zone, side)) == (counters or (0, 0, 0, 0))
    assert meter.store.freshness([zone.number]).newest_ms == time_ms


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"tsv"}))
def test_every_column_of_a_format_is_a_name_and_each_expression_works(name):
    formats.check(FORMATS[name])  # raises what is wrong
    assert formats.find(name) is FORMATS[name]


def squid(**fields):
    columns = dict(zip(FORMATS["squid"].layouts[0].columns, FORMATS["squid"].example.split("\t"), strict=True))
    return "\t".join((columns | fields).values())


def nginx(**fields):
    return json.dumps(json.loads(FORMATS["nginx"].example) | fields)


def envoy(**fields):
    return json.dumps(json.loads(FORMATS["envoy"].example) | fields)


def haproxy(**fields):
    columns = dict(zip(FORMATS["haproxy"].layouts[0].columns, FORMATS["haproxy"].example.split("\t"), strict=True))
    return "\t".join((columns | fields).values())


def trafficserver(**fields):
    known = FORMATS["trafficserver"]
    columns = dict(zip(known.layouts[0].columns, known.example.split("\t"), strict=True))
    return "\t".join((columns | fields).values())


def varnish(**fields):
    columns = dict(zip(FORMATS["varnish"].layouts[0].columns, FORMATS["varnish"].example.split("\t"), strict=True))
    return "\t".join((columns | fields).values())


SQUID_UNANSWERED = {"server_status": "-", "body": "-", "error": "ERR_ZERO_SIZE_OBJECT/WITH_SERVER"}
TUNNEL = {
    "method": "CONNECT",
    "server_status": "000",
    "cqhl": "236",
    "pqhl": "249",
    "sshl": "0",
    "sscl": "0",
    "pshl": "105",
}
UNANSWERED = {"server_status": "000", "sshl": "17", "sscl": "0", "pqhl": "288"}


# A line, its format, and (up, down) of the target, None: no target was reached. Each was seen in a real run.
TARGETS = [
    ("squid", squid(method="CONNECT", client_status="200", sent="5000", sent_header="39"), (0, 4961)),
    ("squid", squid(method="CONNECT", client_status="503", result="NONE_NONE"), None),
    ("squid", squid(method="CONNECT", client_status="503", result="TCP_TUNNEL"), None),
    ("squid", squid(method="CONNECT", client_status="407", user="-"), None),
    ("squid", squid(server_status="-", server_ip="-", local_port="-", result="TCP_MEM_HIT"), None),
    ("squid", squid(**SQUID_UNANSWERED, client_status="502", sent="3406", sent_header="380"), (245, 0)),
    ("squid", squid(**SQUID_UNANSWERED, client_status="000", sent="0", result="TCP_MISS_ABORTED"), (245, 0)),
    ("squid", squid(**SQUID_UNANSWERED, client_status="503", local_port="0"), None),
    ("squid", squid(server_status="000"), None),
    ("squid", squid(server_status="503", client_status="503"), (245, 1292)),
    ("squid", squid(body="-"), (245, 292)),
    ("nginx", nginx(up_addr="", up_out="", up_in="", cache="HIT"), None),
    ("nginx", nginx(up_addr="a, b", up_out="0, 86", up_in="0, 1000"), (86, 1000)),
    ("nginx", nginx(up_addr="a : b", up_out="10 : 86", up_in="5 : 1000"), (96, 1005)),
    ("nginx", nginx(up_addr="a", up_out="0", up_in="0", st=502), None),
    ("trafficserver", trafficserver(**TUNNEL, cqcl="730", pqcl="730", pscl="302061"), (730, 301_956)),
    ("trafficserver", trafficserver(**TUNNEL, cqcl="0", pqcl="728", pscl="302060"), (728, 301_955)),
    ("trafficserver", trafficserver(**TUNNEL, cqcl="0", pqcl="0", pscl="105"), None),
    ("trafficserver", trafficserver(**TUNNEL, cqcl="730", pqcl="730", pscl="302061", client_status="403"), None),
    ("trafficserver", trafficserver(**UNANSWERED, cqcl="0", pqcl="0", client_status="502"), (288, 0)),
    ("trafficserver", trafficserver(**UNANSWERED, cqcl="200000", pqcl="200000", client_status="502"), (200_288, 0)),
    ("trafficserver", trafficserver(**UNANSWERED, cqcl="200032", pqcl="0", client_status="000"), (200_320, 0)),
    ("trafficserver", trafficserver(**UNANSWERED | {"sshl": "0"}, cqcl="0", pqcl="0", client_status="502"), None),
    ("varnish", varnish(kind="b"), (102, 1263)),
    ("haproxy", haproxy(server="pool/<NOSRV>"), None),
    ("haproxy", haproxy(state="SC--"), None),
    ("haproxy", haproxy(server_port="-"), None),
    ("haproxy", haproxy(state="cD--"), (240, 1251)),
    ("envoy", envoy(status=503, upstream_sent=0, upstream_received=0), None),
    ("envoy", envoy(status=503, upstream=None, upstream_sent=0, upstream_received=0), None),
    ("envoy", envoy(status=407, upstream="-", user="cust-acme-zone-res2"), None),
    ("envoy", envoy(status=503, upstream_received=0), (80, 0)),
    ("envoy", envoy(status=0, upstream_sent=0), (0, 100_204)),
    ("envoy", envoy(duration_ms=None), (80, 100_204)),
]


@pytest.mark.parametrize(("name", "line", "target"), TARGETS)
def test_whether_there_was_a_target_is_told_by_the_next_hop(meter, name, line, target):
    """Never by status or result word alone."""
    zone = meter.zones[1] if name in ("nginx", "varnish") else meter.add_zone("acme", "res2")
    report = meter.feed(line.encode() + b"\n", name)
    assert report.outcomes.rejected == report.outcomes.unattributed * (0 if "407" not in line else 1) == 0
    assert meter.total(zone, Side.TARGET)[2:] == (target or (0, 0))
    assert meter.total(zone, Side.TARGET).requests == (target is not None)
    if "407" not in line and name != "varnish":  # whose sides have lines of their own
        assert meter.total(zone, Side.CLIENT).requests == 1
        assert report.outcomes.no_target == (target is None and name != "nginx")


@pytest.mark.parametrize(
    "fields",
    [{"duration_ms": -5}, {"duration_ms": "x"}, {"start": None}, {"upstream_sent": -1}, {"downstream_sent": 1.5}],
)
def test_an_envoy_line_with_a_number_that_is_none_is_rejected(meter, fields):
    meter.add_zone("acme", "res2")
    assert meter.feed(envoy(**fields).encode() + b"\n", "envoy").outcomes == Outcomes(1, rejected=1)


def test_what_envoy_writes_before_the_end_counts_nothing(meter):
    """Its counters are those since the start, and the line at the end has them again."""
    zone = meter.add_zone("acme", "res2")
    before = ("DownstreamStart", "DownstreamPeriodic", "DownstreamTunnelSuccessfullyEstablished", "TcpPeriodic")
    others = ("TcpUpstreamConnected", "UpstreamPoolReady", "UpstreamPeriodic", "UpstreamEnd")
    lines = [envoy(type=kind, host=f"{kind}.test") for kind in (*before, *others)]
    assert meter.feed("\n".join([*lines, ""]).encode(), "envoy").outcomes == Outcomes(8, counted=8)
    for side in Side:
        assert tuple(meter.total(zone, side)) == (0, 0, 0, 0)
    assert meter.store.read_hosts([zone.number], Side.TARGET, Span(0, 4_102_444_800), 99) == {}
    without = json.loads(envoy())
    del without["type"]
    ends = [*(envoy(type=kind) for kind in ("DownstreamEnd", "TcpConnectionEnd", "NotSet", None)), json.dumps(without)]
    meter.feed("\n".join([*lines, *ends, ""]).encode(), "envoy", source_name="ends")
    assert tuple(meter.total(zone)) == (5, 5, 400, 501_020)


@pytest.mark.parametrize(
    ("fields", "identity", "scheme", "ip_version"),
    [
        ({}, "cust-acme-zone-none", "https", "4"),
        ({"method": "GET", "upstream": "[2001:db8::7]:443"}, "cust-acme-zone-none", "http", "6"),
        ({"user": None, "site": "Shop.Example:8443", "method": "GET", "client": "::1"}, "shop.example", "http", "6"),
        ({"user": "-", "site": "shop.example", "method": "GET", "tls": "TLSv1.3"}, "shop.example", "https", "4"),
        ({"user": None, "site": "shop.example", "host": "shop.example", "method": None}, "shop.example", "https", "4"),
        ({"user": None, "site": None, "host": None, "method": None}, "-", "other", "4"),
        ({"upstream": "unix:/run/app.sock"}, "cust-acme-zone-none", "https", "unknown"),
    ],
)
def test_envoy_tells_whose_a_line_is_and_by_what_it_went(meter, fields, identity, scheme, ip_version):
    """As a forward proxy, an edge, and a gateway by SNI."""
    meter.feed(envoy(**{"user": "cust-acme-zone-none-session-1"} | fields).encode() + b"\n", "envoy")
    (waiting,) = meter.store.unattributed()
    assert waiting.identity == identity
    told = [unpack(row[1]) for rows in meter.rows().values() for row in rows]
    assert {(one["scheme"], one["ip_version"]) for one in told} == {(scheme, ip_version)}


def test_a_haproxy_line_of_either_width_is_read_by_its_own_columns(meter):
    """Columns that hold nothing are columns all the same: a width is never guessed from them."""
    meter.add_zone("acme", "res2")
    http = haproxy(version="-", local_port="-", retries="-")
    tcp = (
        "1795307576060\t1795307575.953\t108\t127.0.0.1\t44176\tegress\t-\t748\t2111\t127.0.0.1\t18443\t-\t--\ttgt/t1\t-"
    )
    lines = [http, tcp, tcp + "\t-", tcp + "\t-\t-\t-\t-", tcp + "\t-" * 5, tcp + "\t-" * 6]
    for i, dirt in enumerate(("", "\0?\n")):
        outcomes = meter.feed(("\n".join(lines) + "\n" + dirt).encode(), "haproxy", source_name=str(i)).outcomes
        assert (outcomes.counted, outcomes.unattributed, outcomes.rejected) == (1, 1, 4 + i)


def test_dimensions_come_from_the_line(meter):
    records = [
        {"scheme": "https", "network": "isp", "ip_version": 6, "access": "lpm", "pool": "extra"},
        {"scheme": "other", "ip_version": "4"},
        {},
    ]
    base = {"time": 1_795_132_800, "account": "acme", "zone": "res", "bytes_up": 1, "bytes_down": 2}
    meter.feed("".join(json.dumps(base | r) + "\n" for r in records).encode())
    (rows,) = {tuple(r[1] for r in rows) for rows in meter.rows().values()}
    plain = {"scheme": "other", "ip_version": "unknown", "network": "res", "access": "api", "pool": "default"}
    assert [unpack(d) for d in rows] == [
        plain,
        plain | {"ip_version": "4"},
        {"scheme": "https", "ip_version": "6", "network": "isp", "access": "lpm", "pool": "extra"},
    ]


def test_the_generic_table_takes_what_it_knows():
    """Columns by name; the target's address and the method say what a table has no columns for."""
    made = with_columns(("when", "time", "target_ip", "method", "bytes_up", "a'b"))
    assert made.layouts[0].columns == ("ignored_0", "time", "target_ip", "method", "bytes_up", "ignored_5")
    assert {"ip_version", "scheme", "reached_target", "bytes_down"} <= set(made.layouts[0].fields)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"layouts": (Layout((), {}),)}, "no columns"),
        ({"layouts": (Layout(("a",) * 2, {"time_ms": "a", "bytes_up": "a"}),)}, "two columns"),
        ({"layouts": (Layout(("A",), {"time_ms": "1", "bytes_up": "1"}),)}, "no name"),
        ({"layouts": (Layout(("a",), {"time_ms": "a", "bytes": "a"}),)}, "no field 'bytes'"),
        ({"layouts": (Layout(("a",), {"bytes_up": "a"}),)}, "time_ms"),
        ({"layouts": (Layout(("a",), {"time_ms": "a"}),)}, "none of"),
        ({"layouts": (Layout(tuple(f"c{i}" for i in range(201)), {"time_ms": "c1", "bytes_up": "c2"}),)}, "200"),
        ({"split": "comma"}, "split is"),
    ],
)
def test_a_format_that_cannot_work_is_refused(change, sentence):
    good = Format("mine", "tab", (Layout(("a", "b"), {"time_ms": "seconds_ms(a)", "bytes_up": "whole(b)"}),), "")
    formats.check(good)
    with pytest.raises(BandmeterError, match=sentence):
        formats.check(dataclasses.replace(good, **change))


@pytest.mark.parametrize(
    ("sql", "part"),
    [("whole(recieved)", '"recieved" not found'), ("hole(received)", "hole"), ("whole(received", "syntax error")],
)
def test_a_format_with_an_expression_that_cannot_be_run_is_a_mistake_of_its_author(meter, sql, part):
    """Which is told by name, and nothing is counted."""
    fields = {"time_ms": "seconds_ms(at)", "bytes_up": "0::BIGINT", "bytes_down": sql}
    mine = Format("mine", "tab", (Layout(("at", "received"), fields),), "")
    with pytest.raises(BandmeterError, match="The format 'mine' cannot be used") as caught:
        meter.feed(b"1795132800\t1\n", mine)
    assert caught.value.code == "input_invalid"
    assert part in caught.value.sentence
    assert meter.store.sources() == []


def test_an_unknown_format_names_those_that_there_are():
    with pytest.raises(BandmeterError, match="squid-native"):
        formats.find("squidd")
    mine = dataclasses.replace(FORMATS["squid"], name="mine")
    assert formats.find("mine", (mine,)) is mine


def test_an_expression_of_a_user_stops_no_batch(meter):
    """It may overflow, or cast what is no number: that line is a reject, and the others count."""
    mine = Format(
        "mine",
        "tab",
        (
            Layout(
                ("at", "who", "up", "down"),
                {
                    "time_ms": "CAST(at AS BIGINT) * 1000",
                    "identity": "who",
                    "bytes_up": "CAST(up AS BIGINT) * 9000000000",
                    "bytes_down": "100 // CAST(down AS BIGINT)",
                },
            ),
        ),
        "",
    )
    lines = ["1795132800\tshop.test\t1\t4", "x\tshop.test\t1\t4", "1795132800\tshop.test\t9999999999\t4"]
    lines += ["9223372036854775807\tshop.test\t1\t4", "1795132800\tshop.test\t1\tx", "1795132800\tshop.test\t2\t5"]
    meter.feed("\n".join([*lines, ""]).encode(), mine)
    assert [r.line for r in meter.rejects()] == [2, 3, 4, 5]
    assert meter.total(meter.zones[1]) == (2, 0, 27_000_000_000, 45)


@pytest.mark.parametrize(
    ("columns", "values", "outcomes"),
    [
        (("time",), ("1795132800",), Outcomes(1, unattributed=1)),
        (("time", "account", "zone"), ("1795132800", "acme", "res"), Outcomes(1, counted=1)),
        (("time", "zone"), ("1795132800", "res"), Outcomes(1, rejected=1)),
        (("time", "account"), ("1795132800", "acme"), Outcomes(1, rejected=1)),
        (("time", "account", "identity"), ("1795132800", "-", "shop.test"), Outcomes(1, counted=1)),
    ],
)
def test_a_table_may_lack_what_says_whose_it_is(meter, columns, values, outcomes):
    lines = ["\t".join((*columns, "bytes_up", "bytes_down")), "\t".join((*values, "1", "2"))]
    assert meter.feed("\n".join([*lines, ""]).encode(), "tsv").outcomes == outcomes


def test_the_host_of_squids_own_urls(meter):
    """Of a URL of any form, and of a tunnel; what Squid writes where there was no request is no host."""
    urls = {
        "http://user:pw@Shop.test:8080/a?b=http://c/": "shop.test",
        "shop.test:443": "shop.test",
        "[2001:db8::1]:443": "[2001:db8::1]",
        "http://[2001:db8::1]/": "[2001:db8::1]",
        "http://a.test?x": "a.test",
        "ftp://192.0.2.1/x@y": "192.0.2.1",
        "error:invalid-request": None,
        "http:///x": None,
    }
    line = "1795132800.401     35 10.0.17.18 TCP_MISS/200 {} GET {} cust-acme-zone-res HIER_DIRECT/192.0.2.9 -\n"
    meter.feed("".join(line.format(2**n, url) for n, url in enumerate(urls)).encode(), "squid-native")
    found = meter.store.read_hosts([1], Side.TARGET, Span(0, 4_102_444_800), 99)[1]
    expected: dict = {}
    for n, host in enumerate(urls.values()):
        expected[host] = expected.get(host, 0) + 2**n
    assert {row.host: row.bytes_down for row in found} == {h: size for h, size in expected.items() if h}
    assert meter.total(meter.zones[0]).bytes_down == sum(expected.values())


def test_the_hosts_of_lines_that_name_nobody_are_of_the_zone_that_the_file_was_given_to(meter):
    meter.feed(b'{"time": 1795132800, "host": "a.test", "bytes_up": 1, "bytes_down": 2}\n', account="acme", zone="res")
    (found,) = meter.store.read_hosts([1], Side.TARGET, Span(0, 4_102_444_800), 99)[1]
    assert (found.host, found.requests, found.bytes_up, found.bytes_down) == ("a.test", 1, 1, 2)


@pytest.mark.parametrize("adjust", [-70, 70])
def test_an_adjustment_beyond_64_bits_is_one_reject(meter, adjust):
    line = {"time": 1795132800, "identity": "cust-acme-zone-res", "scheme": "http", "target_bytes_down": 2}
    bad = {"target_bytes_up": 2**63 - 1, "requests": 2 * 10**17}
    lines = [line | {"target_bytes_up": 500}, line | bad, line | {"target_bytes_up": 500}]
    content = "".join(json.dumps(one) + "\n" for one in lines).encode()
    report = meter.feed(content, header_adjust_bytes=adjust)
    assert (report.outcomes.counted, report.outcomes.rejected) == (2, 1)
    assert meter.total(meter.zones[0]).bytes_up == 2 * (500 + adjust)


def test_tunnels_of_months_are_spread_without_keeping_their_pieces(meter, tmp_path, monkeypatch):
    """In any folder, also one that cannot be written to."""
    monkeypatch.chdir("/proc")
    lines = 300
    line = {"time": 1795132800, "identity": "cust-acme-zone-res", "host": "a.test", "duration": 31 * 86_400}
    content = (json.dumps(line | {"bytes_up": 10**6 + 1, "bytes_down": 3}) + "\n").encode() * lines
    assert meter.feed(content, spread=True).outcomes.counted == lines
    assert meter.total(meter.zones[0]).bytes_up == lines * (10**6 + 1)
    found = meter.store.read_hosts([1], Side.TARGET, Span(0, 4_102_444_800), 99)[1]
    assert sum(row.bytes_up for row in found) == lines * (10**6 + 1)
    assert not list(tmp_path.glob(".spill*"))
