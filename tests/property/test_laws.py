"""Law 1, however a log is cut; law 2, whatever is thrown in; law 4, when it happened decides."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bandmeter.domain.grid import Resolution
from bandmeter.domain.usage import Outcomes, Side, pack
from bandmeter.formats import FORMATS

pytestmark = pytest.mark.usefixtures("each_size")

TIMES_MORE = 30 if os.environ.get("BANDMETER_SOAK") else 1  # examples
LOGS = Path(__file__).resolve().parents[2] / "demo" / "logs"
# Around the edges of 5 minutes, hours and days, with fractions that must not be rounded over them.
TIMES = [
    edge + before
    for edge in ("1795132", "1795219", "1795222")
    for before in ("799", "799.9995", "799.9999999", "800", "800.0004", "801.5", "500", "199.999", "200")
]

# ---------------------------------------------------------------- law 1

RECORDS = st.fixed_dictionaries(
    {
        "time": st.one_of(
            st.sampled_from(TIMES), st.sampled_from(TIMES).map(float), st.integers(1_795_100_000, 1_795_300_000)
        ),
        "identity": st.sampled_from(
            [
                "cust-acme-zone-res",
                "x-customer-acme-zone-res-session-1",
                "SHOP.test",
                "nobody",
                "cust-no-zone-x-y",
                "a\nb",
            ]
        ),
    },
    optional={
        "bytes_up": st.integers(0, 2**50),
        "bytes_down": st.integers(0, 2**50),
        "target_bytes_up": st.integers(0, 2**50),
        "target_bytes_down": st.integers(0, 2**50),
        "client_bytes_up": st.integers(0, 9),
        "client_bytes_down": st.integers(0, 9),
        "requests": st.integers(0, 10**9),
        "scheme": st.sampled_from(["http", "https", "other"]),
        "network": st.sampled_from(["res", "cdn"]),
        "status": st.sampled_from([200, 204, 299, 300, 404, 503]),
    },
)
OWNERS = {"cust-acme-zone-res": "res", "x-customer-acme-zone-res-session-1": "res", "SHOP.test": "shop"}
WAITING = {"nobody": "nobody", "cust-no-zone-x-y": "cust-no-zone-x", "a\nb": "a\nb"}
DEFAULT_NETWORK = {"res": "res", "shop": "cdn"}


def pair(record, name):
    up, down = record.get(f"{name}bytes_up"), record.get(f"{name}bytes_down")
    if (up is None) != (down is None):
        raise ValueError("half a pair")
    return None if up is None else (up, down)


def brute_force(records):
    """The rules of docs/records.md, a record at a time, with a dictionary."""
    usage, outcomes = {}, Outcomes()
    for record in records:
        try:
            plain, target, client = pair(record, ""), pair(record, "target_"), pair(record, "client_")
        except ValueError:
            plain = target = client = None
        if not (plain or target or client):
            outcomes = outcomes.plus(Outcomes(1, rejected=1))
            continue
        zone = OWNERS.get(record["identity"])
        is_sided = bool(target or client)
        if zone == "shop":
            client = client or plain
        elif not zone and not is_sided:
            target = plain
        else:
            target = target or plain
        is_counted = bool(target) or (zone == "shop" and bool(client))
        if not is_counted:
            outcomes = outcomes.plus(Outcomes(1, no_target=1))
            if not zone:
                continue
        else:
            outcomes = outcomes.plus(Outcomes(1, counted=int(bool(zone)), unattributed=int(not zone)))
        owner = ("acme", zone) if zone else (WAITING[record["identity"]], "sided" if is_sided else "")
        network = record.get("network") or (DEFAULT_NETWORK[zone] if zone else "unknown")
        dimensions = pack(scheme=record.get("scheme", "other"), network=network)
        requests = record.get("requests", 1)
        success = requests if record.get("status") in (200, 204, 299, 404) else 0
        second = int(str(record["time"]).partition(".")[0])
        for side, counters in ((Side.TARGET, target), (Side.CLIENT, client)):
            for resolution in Resolution if counters else ():
                key = (owner, side, resolution, second // resolution * resolution, dimensions)
                sums = usage.setdefault(key, [0, 0, 0, 0])
                for i, number in enumerate((requests, success, *counters)):
                    sums[i] += number
    return {key: tuple(sums) for key, sums in usage.items() if any(sums)}, outcomes


def flat(rows):
    """What `Meter.rows` gives, in the form of `brute_force`."""
    return {(*key, row[0], row[1]): tuple(row[2:]) for key, found in rows.items() for row in found}


def make(make_meter, **options):
    meter = make_meter(**options)
    meter.add_zone("acme", "res", "res")
    meter.add_zone("acme", "shop", "cdn", ["shop.test"])
    return meter


@settings(max_examples=15 * TIMES_MORE)
@given(
    records=st.lists(RECORDS, min_size=1, max_size=12),
    copies=st.integers(1, 30),
    batch_bytes=st.integers(4096, 12_000),
    cuts=st.lists(st.floats(0, 1), max_size=4),
)
def test_a_log_cut_anywhere_is_what_its_records_are(make_meter, records, copies, batch_bytes, cuts):
    """Against a dictionary: in one batch or many, in one file or several, in any order, sums and counts are equal."""
    draw = random.Random(batch_bytes)
    many = records * copies
    draw.shuffle(many)
    lines = [json.dumps(record).encode() + b"\n" for record in many]
    expected, outcomes = brute_force(many)

    whole = make(make_meter)
    assert whole.feed(b"".join(lines)).outcomes == outcomes
    assert flat(whole.rows()) == expected

    parts = make(make_meter, batch_bytes=batch_bytes)
    edges = sorted({0, len(lines), *(int(cut * len(lines)) for cut in cuts)})
    pieces = [b"".join(lines[a:b]) for a, b in itertools.pairwise(edges)]
    draw.shuffle(pieces)
    for i, piece in enumerate(pieces):
        parts.feed(piece, source_name=str(i))  # records may repeat, so pieces may be equal
    assert flat(parts.rows()) == expected
    assert parts.outcomes() == outcomes


# ---------------------------------------------------------------- law 2

# Of each format: a line that counts for the zone `sure`, and the bytes it has there.
SURE = {
    "jsonl": ('{"time":1795132800,"account":"acme","zone":"sure","bytes_up":77,"bytes_down":777}', (77, 777)),
    "squid": (FORMATS["squid"].example.replace("zone-res2", "zone-sure"), (245, 1292)),
    "nginx": (FORMATS["nginx"].example.replace("shop.test", "sure.test"), (96, 1159)),
    "haproxy": (FORMATS["haproxy"].example.replace("zone-res2", "zone-sure"), (240, 1251)),
    "trafficserver": (
        FORMATS["trafficserver"].example.replace("Y3VzdC1hY21lLXpvbmUtcmVzMjpwdw==", "Y3VzdC1hY21lLXpvbmUtc3VyZTpw"),
        (247, 1159),
    ),
    "varnish": (FORMATS["varnish"].example.replace("shop.test", "sure.test").replace("c\t", "b\t", 1), (102, 1263)),
    "envoy": (FORMATS["envoy"].example.replace("zone-res2", "zone-sure"), (80, 100_204)),
    "squid-native": (FORMATS["squid-native"].example.replace("wayne-zone-isp62", "acme-zone-sure"), (0, 29547)),
    "combined": (FORMATS["combined"].example.replace("zone-web1", "zone-sure"), (0, 5120)),
    "tsv": ("1795132800.5\tcust-acme-zone-sure\t200\t77\t777", (77, 777)),
}
COLUMNS = {"tsv": ("time", "identity", "status", "bytes_up", "bytes_down")}
CAPTURED = {
    "squid": "squid/access_meter.log",
    "nginx": "nginx/access_meter.log",
    "haproxy": "haproxy/tcp_sni.log",
    "trafficserver": "trafficserver/access_meter.log",
    "varnish": "varnish/client.log",
    "envoy": "envoy/gateway.log",
}
REAL = {
    name: [
        *((LOGS / CAPTURED[name]).read_bytes().splitlines()[:60:5] if name in CAPTURED else ()),
        FORMATS[name].example.encode() if name != "tsv" else b"1795132800\tcust-acme-zone-res\t404\t1\t2",
    ]
    for name in SURE
}
SNIPPETS = [
    *(
        b"\t",
        b"\0",
        b"\r",
        b"\r\n",
        b"\n",
        b"\n\n",
        b"\xff",
        b"\xef\xbb\xbf",
        b'"',
        b"'",
        b"-",
        b" ",
        b"{",
        b"}",
        b":",
        b"\\",
    ),
    *(
        b"\x01",
        b"\x02\x02",
        b"9223372036854775807",
        b"-9223372036854775808",
        b"18446744073709551616",
        b"999999999999999999",
    ),
    *(
        b"1e308",
        b"0x10",
        b"1_000",
        b"NaN",
        b"null",
        b"-1",
        b"+0",
        b"1795132800.9999999",
        b"4212118431076348780",
        b"000",
    ),
    *(
        "\u2028é😀".encode(),
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\\u0000",
        b"CONNECT",
        b"+",
        b"<NOSRV>",
        b", ",
        b"407",
        b"#",
        b";",
    ),
    b"x" * 300,
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "cut", "column", "swap", "double", "join"]),
        st.floats(0, 1),
        st.floats(0, 1),
        st.sampled_from(SNIPPETS),
    ),
    max_size=4,
)


def edit(line, edits):
    """A real line, with damage done to it."""
    for how, a, b, snippet in edits:
        i, j = sorted((int(a * len(line)), int(b * len(line))))
        separator = b"," if line.startswith(b"{") else b"\t" if b"\t" in line else b" "
        columns = line.split(separator)
        n, m = int(a * (len(columns) - 1)), int(b * (len(columns) - 1))
        if how == "insert":
            line = line[:i] + snippet + line[i:]
        elif how == "cut":
            line = line[:i] + line[j:]
        elif how == "double":
            line = line + line[i:j]
        elif how == "join":
            line = line[:i] + b"\n" + line[i:]
        else:
            columns[n], columns[m] = (snippet, columns[m]) if how == "column" else (columns[m], columns[n])
            line = separator.join(columns)
    return line


def is_record(line):
    """Blank lines are none; NUL bytes and byte order marks at the start, and the CR of a CRLF, are no content."""
    return re.fullmatch(rb"\0*(\xef\xbb\xbf)?\r?", line) is None


GARBAGE = st.lists(st.one_of(st.binary(max_size=60), st.tuples(st.integers(0, 99), EDITS)), min_size=1, max_size=40)


def looks_harmless(line):
    """Whether nothing in the line's bytes can mislead a splitter."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return False
    return bool(text) and text.isprintable() and text[0] != "\ufeff"


@pytest.mark.parametrize("name", SURE)
@settings(max_examples=10 * TIMES_MORE)
@given(garbage=GARBAGE)
@example(garbage=[b"\xff", b"\0", b"\0\0\xef\xbb\xbf\r", b"\0{", b"\x02\x02"])
@example(garbage=[(i, []) for i in range(13)])
@example(
    garbage=[(i, [("column", k / 20, 0.0, snippet)]) for i, snippet in enumerate(SNIPPETS) for k in (i % 20, i % 7)]
)
def test_any_bytes_are_accounted_for(make_meter, name, garbage):
    """No input stops an ingest; the counts add up; a good line counts; and a line's verdict is its own alone."""
    sure, counters = SURE[name]
    raw = [g if isinstance(g, bytes) else edit(REAL[name][g[0] % len(REAL[name])], g[1]) for g in garbage]
    raw = b"\n".join([*raw, sure.encode()]).split(b"\n")
    job = {"columns": COLUMNS[name]} if name in COLUMNS else {}

    def fed(*pieces):
        meter = make_meter()
        for zone in ("res", "res2", "dc1", "web1"):
            meter.add_zone("acme", zone)
        zone = meter.add_zone("acme", "sure", identities=["sure.test"])
        for i, lines in enumerate(pieces):  # the blank line: nothing may look like a compressed file
            meter.feed(b"\n" + b"".join(line + b"\n" for line in lines), name, source_name=str(i), **job)
        assert meter.total(zone, Side.TARGET)[2:] == counters
        assert meter.total(zone, Side.TARGET).requests == 1
        return meter

    whole = fed(raw)
    outcomes, rejects = whole.outcomes(), sorted(r[2:4] + r[5:] for r in whole.rejects())
    assert outcomes.received == sum(map(is_record, raw))
    assert outcomes.rejected == len(rejects)
    assert whole.store.sources()[0].lines == 1 + len(raw)
    starts = list(itertools.accumulate((len(line) + 1 for line in raw), initial=1))
    for r in whole.rejects():
        skipped = r.byte - starts[r.line - 2]
        assert raw[r.line - 2][skipped:][:65_536] == r.text or name == "trafficserver"
        assert not raw[r.line - 2][:skipped].strip(b"\0\xef\xbb\xbf")
    apart = fed([x for x in raw if looks_harmless(x)], [x for x in raw if not looks_harmless(x)])
    assert apart.outcomes() == outcomes
    assert apart.rows() == whole.rows()
    assert sorted(r[2:4] + r[5:] for r in apart.rejects()) == rejects


# ---------------------------------------------------------------- law 4


@settings(max_examples=8 * TIMES_MORE)
@given(moments=st.lists(st.integers(0, 1_795_392_000_000 + 600_000), min_size=1, max_size=40), digits=st.integers(0, 9))
def test_the_bucket_is_that_of_the_moment(make_meter, moments, digits):
    """In each form of time, with digits below the millisecond that are cut off."""
    more = str(digits) * digits
    forms = {
        "text": lambda ms: f"{ms // 1000}.{ms % 1000:03}{more}",
        "number": lambda ms: float(f"{ms // 1000}.{ms % 1000:03}"),
        "utc": rfc3339,
        "kathmandu": lambda ms: rfc3339(ms, more, 5 * 60 + 45),
        "niue": lambda ms: rfc3339(ms, more, -11 * 60),
    }
    expected: dict = {}
    for ms in moments:
        bucket = ms // 1000 // 300 * 300
        expected[bucket] = expected.get(bucket, 0) + 1
    meter = make_meter()
    for zone in forms:
        meter.add_zone("acme", zone)
    records = (
        {"time": form(ms), "account": "acme", "zone": zone, "bytes_up": 1, "bytes_down": 0}
        for ms in moments
        for zone, form in forms.items()
    )
    report = meter.feed(b"".join(json.dumps(record).encode() + b"\n" for record in records))
    assert report.outcomes.counted == len(moments) * len(forms), meter.rejects()
    rows = meter.rows()
    for zone in meter.zones:
        found = rows[("acme", zone.name), Side.TARGET, Resolution.FIVE_MINUTES]
        assert {row[0]: row[2] for row in found} == expected
        assert meter.store.freshness([zone.number]).newest_ms == max(moments)


def rfc3339(ms, more="", offset=0):
    zone = dt.timezone(dt.timedelta(minutes=offset))
    moment = dt.datetime.fromtimestamp(ms // 1000, zone)
    sign, (hours, minutes) = "-" if offset < 0 else "+", divmod(abs(offset), 60)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}{more}{sign}{hours:02}:{minutes:02}"
