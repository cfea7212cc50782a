"""What cannot be read is told by line, byte, field and reason, is kept, can be mended, and harms no neighbour."""

from __future__ import annotations

import base64
import itertools
import json
import random
import re
from pathlib import Path

import pytest

from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.usage import Outcomes, Side
from bandmeter.formats import FORMATS
from bandmeter.ingest.batch.explain import REASONS
from bandmeter.store import SqliteStore

LOGS = Path(__file__).resolve().parents[2] / "demo" / "logs"
GOOD = b'{"time":1795132800,"account":"acme","zone":"res","bytes_up":1,"bytes_down":10}\n'
NOW_S = 1_795_392_000
LINE_BYTES_MAX = 262_144


def record(**fields):
    """A good record with some fields changed; None takes one out."""
    whole = {"time": 1_795_132_800, "account": "acme", "zone": "res", "bytes_up": 1, "bytes_down": 10} | fields
    return json.dumps({k: v for k, v in whole.items() if v is not None}).encode() + b"\n"


# (line, field, reason, a part of the detail)
CASES = [
    (b"not json\n", "", "not_json", "no JSON object"),
    (b'{"time":1795132800\n', "", "not_json", ""),
    (b"[1, 2]\n", "", "not_json", ""),
    (b'"text"\n', "", "not_json", ""),
    (b"null\n", "", "not_json", ""),
    (b'{"time":1795132800,"zone":"a\\ud800"}\n', "", "not_json", ""),
    (GOOD[:-1] + GOOD, "", "not_json", ""),
    (record(time=None), "time", "missing_field", "no time"),
    (record(bytes_up=None), "bytes_up", "missing_field", "no bytes_up"),
    (record(bytes_up=None, bytes_down=None), "bytes_up", "missing_field", "no bytes"),
    (record(bytes_up=None, bytes_down=None, client_bytes_up=4), "client_bytes_down", "missing_field", ""),
    (record(zone=None), "zone", "missing_field", "zone"),
    (record(account=None), "account", "missing_field", "account"),
    (record(time="yesterday"), "time", "bad_time", "'yesterday'"),
    (record(time="2026-11-20T00:00:00"), "time", "bad_time", "offset"),
    (record(time=-1), "time", "bad_time", ""),
    (record(time=2**63 - 1), "time", "bad_time", ""),
    (record(time=NOW_S + 601), "time", "in_future", "601 s ahead"),
    (record(time=f"{NOW_S + 600}.001"), "time", "in_future", "600 s ahead"),
    (record(bytes_up=1.5), "bytes_up", "bad_number", "'1.5'"),
    (record(bytes_down="much"), "bytes_down", "bad_number", "'much'"),
    (record(requests="1e3"), "requests", "bad_number", ""),
    (record(bytes_up=-1), "bytes_up", "negative", "-1"),
    (record(target_bytes_up=-5, target_bytes_down=1), "target_bytes_up", "negative", "-5"),
    (record(bytes_up=2**50 + 1), "bytes_up", "too_large", str(2**50)),
    (record(bytes_up=10**30), "bytes_up", "too_large", ""),
    (record(bytes_up=10**400), "bytes_up", "too_large", ""),
    (record(bytes_up="9" * 30), "bytes_up", "too_large", ""),
    (record(requests=10**9 + 1), "requests", "too_large", ""),
    (record(account=None, zone=None, identity="i" * 513), "identity", "too_large", "512"),
    (record(scheme="gopher"), "scheme", "unknown_value", "http"),
    (record(network="moon"), "network", "unknown_value", "dc"),
    (record(ip_version=5), "ip_version", "unknown_value", "4"),
    (record(access="HTTP"), "access", "unknown_value", ""),
    (record(pool=""), "pool", "unknown_value", ""),
    (record(zone="nowhere"), "zone", "unknown_zone", "'acme/nowhere'"),
    (record(account="nobody"), "zone", "unknown_zone", "'nobody/res'"),
    (record(zone="RES"), "zone", "unknown_zone", ""),
    (record(status=99), "status", "corrupt", "'99'"),
    (record(status=600), "status", "corrupt", "600"),
    (record(status="2oo"), "status", "corrupt", ""),
    (record(status="4212118431076348780"), "status", "corrupt", ""),
    (b'{"time":1795132800,"zone":"\xff\xfe"}\n', "", "corrupt", "UTF-8"),
    (b"\xc3\x28\n", "", "corrupt", "UTF-8"),
    (GOOD[:20] + b"\0" + GOOD[20:], "", "corrupt", "NUL"),
    (GOOD[:20] + b"\r" + GOOD[20:], "", "corrupt", "carriage return"),
    (b'{"time":1795132800,"host":"\x01"}\n', "", "corrupt", "0x01"),
    (record(host="x" * LINE_BYTES_MAX), "", "corrupt", str(LINE_BYTES_MAX)),
    (record(host="x" * 1_000_000), "", "corrupt", str(LINE_BYTES_MAX)),
]
TORN = (b"1795132800\tonly three\tcolumns\n", "", "torn_line", "3 columns")


def check(meter, cases):
    """Each case is reported with where it stands, and its text as it came."""
    content, places = b"", []
    for case in cases:
        places.append((content.count(b"\n") + 1, len(content)))
        content += case[0] + GOOD
    report = meter.feed(content, source_name=f"{len(cases)} {hash(content)}")
    assert report.outcomes == Outcomes(2 * len(cases), counted=len(cases), rejected=len(cases))
    found = meter.store.rejects(report.source, 1000)
    for (line, field, reason, detail), place, reject in zip(cases, places, found, strict=True):
        assert (reject.line, reject.byte) == place
        assert (reject.field, reject.reason) == (field, reason), line[:100]
        assert detail in reject.detail
        assert reject.text == line.removesuffix(b"\n")[:LINE_BYTES_MAX]


def test_every_reason_with_its_place_and_text(meter):
    """All at once, where the splitter may be misled, and those alone that can be read the fast way."""
    check(meter, CASES)
    check(meter, CASES[::-1])
    check(meter, [case for case in CASES if case[2] != "corrupt" or case[1]])
    assert {case[2] for case in [*CASES, TORN]} == set(REASONS)
    assert meter.total(meter.zones[0]).bytes_down % 10 == 0


def test_a_case_alone(meter):
    """The verdict does not depend on the neighbours."""
    picked = [case for case in CASES if len(case[0]) < 1000]
    for case in random.Random(5).sample(picked, 15):
        check(meter, [case])


def test_a_torn_line_of_a_table(meter):
    header, good = b"time\tidentity\tbytes_up\tbytes_down\n", b"1795132800\tcust-acme-zone-res\t1\t2\n"
    wide = b"1795132800\tcust-acme-zone-res\t1\t2\t3\n"
    meter.feed(header + good + TORN[0] + good + wide + good, "tsv")
    first, second = meter.rejects()
    assert (first.line, first.byte, first.reason) == (3, len(header + good), "torn_line")
    assert TORN[3] in first.detail
    assert (second.line, second.reason) == (5, "corrupt")
    assert meter.total(meter.zones[0]) == (3, 0, 3, 6)


def test_mended_lines_sent_again_count(meter):
    """The rejects, with what was wrong set right, are a file of their own: once, and no more."""
    broken = [record(bytes_up=-i, bytes_down=i) for i in range(1, 30)]
    meter.feed(GOOD * 3 + b"".join(broken) + GOOD)
    assert meter.total(meter.zones[0]).requests == 4
    mended = b"".join(r.text.replace(b": -", b": ") + b"\n" for r in meter.rejects())
    for _ in range(2):
        meter.feed(mended)
    assert meter.total(meter.zones[0]) == (33, 0, 4 + sum(range(1, 30)), 40 + sum(range(1, 30)))
    assert meter.outcomes() == Outcomes(33 + 29 + 29, counted=33, duplicate=29, rejected=29)


def test_a_thousand_rejects_in_a_large_batch_are_told_by_their_own_lines(make_meter):
    """A reject's line, byte and text belong together, though several threads read the batch."""
    meter = make_meter(batch_bytes=32 << 20)
    meter.add_zone("acme", "res")
    draw = random.Random(3)
    count = 150_000
    bad = set(draw.sample(range(count), 1000))
    rows = [record(bytes_up=-i if i in bad and i else i, host=f"h{i}") for i in range(count)]
    bad.discard(0)
    meter.feed(b"".join(rows))
    starts = list(itertools.accumulate(map(len, rows), initial=0))
    assert [(r.line, r.byte, r.text) for r in meter.rejects()] == [
        (i + 1, starts[i], rows[i][:-1]) for i in sorted(bad)
    ]
    assert meter.total(meter.zones[0]).bytes_up == sum(set(range(count)) - bad)


# ---------------------------------------------------------------- whole files


@pytest.mark.parametrize(("name", "given"), [(n, g) for n in FORMATS for g in FORMATS if n != g])
def test_a_log_given_as_another_format_is_refused(make_meter, tmp_path, name, given):
    """Nothing is counted, and nothing is remembered, so that the right format can be given."""
    captured = {
        "squid": "squid/access_meter.log",
        "nginx": "nginx/access_meter.log",
        "haproxy": "haproxy/http_front_of_squid.log",
        "trafficserver": "trafficserver/access_meter.log",
        "varnish": "varnish/client.log",
        "envoy": "envoy/forward.log",
    }
    store = SqliteStore(tmp_path / "usage.db")
    meter = make_meter(store=store)
    meter.add_zone("acme", "res2")
    path = tmp_path / "log"
    if name in captured:
        path.write_bytes((LOGS / captured[name]).read_bytes())
    else:
        example = FORMATS[name].example.encode() + b"\n"
        path.write_bytes(example + b"1795132800\ta\tb\t200\t1\t2\n" * 120 if name == "tsv" else example * 120)
    with pytest.raises(BandmeterError) as caught:
        meter.feed(path, given)
    assert caught.value.code == "input_invalid"
    assert store.sources() == store.unattributed() == []
    report = meter.feed(path, name)
    assert report.outcomes.received >= 120
    assert report.outcomes.duplicate == 0
    assert report.outcomes.rejected <= 4
    store.close()


def test_a_wrong_format_shows_as_an_exit_status(command):
    done = command("ingest", "--format", "varnish", LOGS / "squid/access_meter.log", status=2)
    assert b"not in the format varnish" in done.stderr
    assert b"Nothing was counted" in done.stderr
    assert json.loads(command("sources", "--json").stdout)["sources"] == []


# ---------------------------------------------------------------- secrets


def test_no_password_of_traffic_server_is_kept_or_shown(command, tmp_path):
    """Not of counted lines, of torn, shifted, overlong and unreadable ones, nor in what the commands print."""
    line = (LOGS / "trafficserver" / "access_meter.log").read_bytes().splitlines()[0]
    assert b"\tBasic " in line
    draw = random.Random(8)
    passwords, rows = [], []

    def secret():
        passwords.append(f"Pw{draw.getrandbits(80):x}")
        return base64.b64encode(f"cust-acme-zone-res:{passwords[-1]}".encode())

    def like(change, credential=b"Basic %s"):
        rows.append(change(re.sub(rb"Basic \S+", lambda _: credential % secret(), line)))

    for credential in (b"Basic %s", b"basic   %s", b"BASIC %s", b"Basic\t%s"):
        like(lambda x: x, credential)
        like(lambda x: x + b"\tmore", credential)
        like(lambda x: x.partition(b"\tGET")[0], credential)
        like(lambda x: x.replace(b"1795307821", b"x"), credential)
        like(lambda x: b"\t".join([*x.split(b"\t")[4:], *x.split(b"\t")[:4]]), credential)  # shifted columns
        like(lambda x: b"\t".join([*x.split(b"\t")[3:], *x.split(b"\t")[:3]]), credential)
        like(lambda x: b"\t".join([*x.split(b"\t")[:15], x.split(b"\t")[4], *x.split(b"\t")[16:]]), credential)
        like(lambda x: x + b"\xff", credential)
        like(lambda x: x.replace(b"\tGET", b"\0\tGET"), credential)
        like(lambda x: x + b"y" * 300_000, credential)
        like(lambda x: x + b"y" * 900_000, credential)
    path = tmp_path / "access.log"
    path.write_bytes(b"\n".join(rows) + b"\n")
    shown = b""
    for source, environment in (("a", {}), ("b", {"BANDMETER_INGEST_BATCH_BYTES": "400000"})):
        done = command(
            *("ingest", "--json", "--source", source, "--format", "trafficserver", path),
            status=1,
            env=command.environment | environment,
        )
        shown += done.stdout + done.stderr
        total = json.loads(done.stdout)["total"]
        assert total["received"] == len(rows)
        assert total["rejected"] > len(rows) / 2
    for arguments in (("rejects", "--json"), ("rejects", "--lines"), ("rejects",), ("sources", "--json")):
        done = command(*arguments)
        shown += done.stdout + done.stderr
    kept = b"".join(file.read_bytes() for file in command.data.rglob("*") if file.is_file())
    assert b"cust-acme-zone-res" in kept
    for text in passwords:
        for form in (text.encode(), base64.b64encode(text.encode())[:12]):
            assert form not in shown + kept
    for row in rows:
        token = re.search(rb"(?i)basic\s+(\S+)", row)[1]
        assert token not in shown + kept
        assert token[28:36] not in shown + kept  # nor where the password begins


# ---------------------------------------------------------------- an attacker's names


NAMES = [
    "'; DROP TABLE usage_5m; --",
    '"quoted"',
    "a'b",
    "emoji 😀 and ünï",
    "tab\tin it",
    "line\nbreak",
    "nul\0byte",
    "\x1b[31mred\x07",
    "%s %d {} \\",
    "shop.test\nfoo",
    "\u202eright to left",
    "x" * 512,
    "😀" * 512,
    "-zone-",
    "cust--zone-",
    "cust-acme-zone-",
    "-",
    " ",
    "NULL",
    "NaN",
    "\\N",
    "(beyond the daily bound)",
]


def test_names_are_kept_as_they_are(meter, tmp_path):
    """Whatever a user calls himself is one identity, shown as it is, and takes nobody else's traffic."""
    store = SqliteStore(tmp_path / "usage.db")
    meter.store = store
    content = b"".join(
        record(account=None, zone=None, identity=name, bytes_up=2**i, client_bytes_up=1, client_bytes_down=1)
        for i, name in enumerate(NAMES)
    )
    meter.feed(content)
    assert meter.rejects() == []
    waiting = {u.identity: u.target.bytes_up for u in store.unattributed()}
    expected: dict = {}
    for i, name in enumerate(NAMES):
        cut = name if "-zone-" not in name else "-zone-".join(name.split("-zone-")[:2])
        expected[cut] = expected.get(cut, 0) + 2**i
    assert waiting == expected
    assert meter.total(meter.zones[1], Side.CLIENT).requests == 0
    assert store.check() == []
    for name in list(waiting):
        store.claim(name, meter.zones[0])
    assert meter.total(meter.zones[0], Side.TARGET).bytes_up == 2 ** len(NAMES) - 1
    store.close()
