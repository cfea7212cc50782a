"""Every captured log, byte for byte, against a reader that shares nothing with ours.

The formulas below are written from docs/formats.md, a line at a time, in plain Python.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from bandmeter.catalog import Catalog
from bandmeter.domain.grid import Resolution, Span
from bandmeter.domain.questions import OTHER, TargetsQuestion
from bandmeter.domain.usage import Outcomes, Side
from bandmeter.reports import Reports
from bandmeter.store import SqliteStore

START = 1_795_132_800  # a midnight before the first line
LOGS = Path(__file__).resolve().parents[2] / "demo" / "logs"
FILES = {
    "squid/access_meter.log": "squid",
    "nginx/access_meter.log": "nginx",
    "haproxy/http_front_of_squid.log": "haproxy",
    "haproxy/tcp_sni.log": "haproxy",
    "trafficserver/access_meter.log": "trafficserver",
    "varnish/client.log": "varnish",
    "varnish/backend.log": "varnish",
    "envoy/forward.log": "envoy",
    "envoy/edge.log": "envoy",
    "envoy/gateway.log": "envoy",
}
# Some identities have a zone and some do not; `api.test` bills its target's side, the other domains the client's.
ACCOUNTS = {
    "acme": {"res1": {}, "res2": {}, "dc1": {}, "isp1": {}, "edge": {"identities": ["egress"]}},
    "cdn": {
        "shop.test": {"network": "cdn", "identities": ["shop.test"]},
        "cdn.test": {"network": "cdn", "identities": ["*.cdn.test", "cdn.test"]},
        "api.test": {"network": "dc", "identities": ["api.test"]},
    },
}
BILLS_CLIENT = {("cdn", "shop.test"), ("cdn", "cdn.test")}
REJECTING = {"haproxy", "trafficserver"}
OWNERS = {"egress": ("acme", "edge"), **{zone: ("cdn", zone) for zone in ACCOUNTS["cdn"]}}
# Where the sums of each log's target were published.
TABLES = {
    "squid/access_meter.log": "squid/accuracy.txt",
    "nginx/access_meter.log": "nginx/accuracy.txt",
    "haproxy/http_front_of_squid.log": "haproxy/accuracy_http.txt",
    "haproxy/tcp_sni.log": "haproxy/accuracy_tcp.txt",
    "trafficserver/access_meter.log": "trafficserver/accuracy.txt",
    "varnish/backend.log": "varnish/accuracy.txt",
}


class Line(NamedTuple):
    """A request: (up, down) of a side, or None where the line has nothing of it."""

    time_ms: int
    identity: str
    status: str
    target: tuple[int, int] | None
    client: tuple[int, int] | None
    host: str  # as it is written
    requests: int = 1


def ms(text):
    whole, _, fraction = text.partition(".")
    return int(whole) * 1000 + int((fraction + "000")[:3])


def domain(text):
    return text.partition(":")[0].lower()


def read_squid(line):
    c = line.split("\t")
    sent, received = int(c[17]), int(c[15])
    target = None
    if c[5] == "CONNECT":
        if c[11] == "200":
            target = (received - int(c[16]), sent - int(c[18]))
    elif c[12] not in ("-", "000"):
        target = (received, int(c[18]) + int(c[19].replace("-", "0")))
    elif c[12] == "-" and c[26] not in ("-", "0"):
        target = (received, 0)
    return Line(ms(c[0]), c[4], c[11], target, (received, sent), c[7])


def read_nginx(line):
    record = json.loads(line)
    up, down = (sum(map(int, re.findall(r"\d+", record[key]))) for key in ("up_out", "up_in"))
    target = (up, down) if record["up_addr"] and (up or down) else None
    return Line(
        ms(str(record["t"])),
        domain(record["host"]),
        str(record["st"]),
        target,
        (record["cli_in"], record["cli_out"]),
        record["host"],
    )


def read_haproxy(line):
    c = line.split("\t")
    if len(c) == 20:
        total, identity, host, status, up, down, port, state, server = (c[i] for i in (3, 6, 8, 10, 11, 12, 14, 16, 17))
    else:
        total, identity, host, up, down, port, state, server = (c[i] for i in (2, 5, 6, 7, 8, 10, 12, 13))
        status = ""
    if down.startswith("+"):
        return None
    counters = (int(up), int(down))
    has_target = "<NOSRV>" not in server and not state.startswith("SC") and port != "-"
    target = counters if has_target else None
    return Line(ms(c[1]) + int(total), identity.strip('"'), status, target, counters, host.strip('"'))


def read_trafficserver(line):
    c = line.split("\t")
    user = base64.b64decode(c[4][6:]).decode().partition(":")[0] if c[4].startswith("Basic ") else "-"
    cqhl, cqcl, pqhl, pqcl, sshl, sscl, pshl, pscl = map(int, c[15:23])
    target, client = None, (cqhl + cqcl, pshl + pscl)
    if c[5] == "CONNECT":
        client = (cqhl + max(cqcl, pqcl), pscl)
        if c[11] == "200" and (pqcl or pscl > pshl):
            target = (pqcl, pscl - pshl)
    elif c[12] != "000":
        target = (pqhl + pqcl, sshl + sscl)
    elif sshl:
        target = (pqhl + max(pqcl, cqcl), 0)
    return Line(ms(c[0]) + int(c[1]), user, c[11], target, client, c[8])


def read_varnish(line):
    c = line.split("\t")
    counters = (int(c[11]), int(c[12]))
    target, client = (None, counters) if c[0] == "c" else (counters, None)
    return Line(int(c[1]) + int(c[2]) // 1000, domain(c[8]), c[10], target, client, c[8])


def read_envoy(line):
    record = json.loads(line)
    is_end = record["type"] in ("DownstreamEnd", "TcpConnectionEnd")
    up, down = record["upstream_sent"], record["upstream_received"]
    return Line(
        ms(record["start"]) + record["duration_ms"],
        record.get("user") or domain(record.get("site") or ""),
        str(record.get("status")) if is_end else "",
        ((up, down) if is_end else (0, 0)) if record["upstream"] and (up or down) else None,
        (record["downstream_received"], record["downstream_sent"]) if is_end else (0, 0),
        record["host"],
        requests=int(is_end),
    )


READERS = {
    f.__name__.removeprefix("read_"): f
    for f in (read_squid, read_nginx, read_haproxy, read_trafficserver, read_varnish, read_envoy)
}


def read(name):
    """The lines of a captured log; None for one that cannot be counted."""
    for raw in (LOGS / name).read_bytes().splitlines():
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            yield None
        else:
            yield READERS[FILES[name]](text)


def owner_of(identity):
    """(account, zone), or the name under which it waits."""
    found = re.match(r"cust-(\w+)-zone-([^-]+)", identity)
    if found:
        known = found[1] in ACCOUNTS and found[2] in ACCOUNTS[found[1]]
        return (found[1], found[2]) if known else found[0]
    return OWNERS.get(identity, identity or "-")


def expect(name):
    """What must be counted: {(owner, side, start of bucket, resolution): counters}, and the counts of law 2."""
    usage: dict = {}
    outcomes: Counter = Counter()
    for line in read(name):
        outcomes["received"] += 1
        if line is None:
            outcomes["rejected"] += 1
            continue
        owner = owner_of(line.identity)
        is_nobody = isinstance(owner, str)
        bills_client = FILES[name] in ("nginx", "varnish") if is_nobody else owner in BILLS_CLIENT
        is_counted = line.target is not None or (bills_client and line.client is not None)
        outcomes["no_target" if not is_counted else "unattributed" if is_nobody else "counted"] += 1
        if is_nobody and not is_counted:
            continue
        success = int(line.status[:1] == "2" or line.status == "404")
        for side, counters in ((Side.TARGET, line.target), (Side.CLIENT, line.client)):
            for resolution in Resolution if counters else ():
                bucket = line.time_ms // 1000 // resolution * resolution
                total = usage.setdefault((owner, side, resolution, bucket), [0, 0, 0, 0])
                for i, number in enumerate((line.requests, success, *counters)):
                    total[i] += number
    return usage, Outcomes(**outcomes)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory, make_command):
    """A data folder with the zones."""
    command = make_command(tmp_path_factory.mktemp("catalog") / "data")
    command.apply(ACCOUNTS)
    return command.data


@pytest.fixture
def ready(command, catalog):
    """`bandmeter`, with the zones in its data folder."""
    shutil.copytree(catalog, command.data)
    return command


def stored(command):
    """The same, as the store has it."""
    catalog = Catalog.open(f"sqlite:///{command.data}/catalog.db")
    owners = {zone.number: (zone.account, zone.name) for zone in catalog.zones()}
    catalog.close()
    assert len(owners) == 8
    store = SqliteStore(command.data / "usage.db")
    try:
        assert store.check() == []
        owners |= {u.number: u.identity for u in store.unattributed()}
        found: dict = {}
        for side in Side:
            for resolution in Resolution:
                for number, columns in store.read(list(owners), side, resolution, Span(0, 4_102_444_800)).items():
                    for bucket, _, *counters in zip(*columns, strict=True):
                        total = found.setdefault((owners[number], side, resolution, bucket), [0, 0, 0, 0])
                        for i, counter in enumerate(counters):
                            total[i] += counter
        return found
    finally:
        store.close()


def published(name):
    """`log est` of the target, up and down, out of the first TOTAL of an accuracy table."""
    found = re.search(r"^TOTAL .*", (LOGS / name).read_text(), re.MULTILINE)[0]
    numbers = [int(part) for part in re.split(r"[|\s]+", found) if part.isdigit()]
    return [numbers[5], numbers[7]]


@pytest.mark.parametrize("name", FILES)
def test_a_captured_log_is_counted_to_the_byte(ready, name):
    """Per owner, side, 5 minutes, hour and day; and the target's sums are those of docs/accuracy.md, where it has them."""
    usage, outcomes = expect(name)
    assert outcomes.received > 30
    assert ready.ingest(FILES[name], LOGS / name, status=1 if outcomes.rejected else 0) == outcomes
    found = stored(ready)
    assert found == usage
    days = [counters for key, counters in found.items() if key[1:3] == (Side.TARGET, Resolution.DAY)]
    sums = [sum(counters[i] for counters in days) for i in (2, 3)]
    if name != "varnish/client.log":
        assert min(sums) > 0
    if name in TABLES:
        assert sums == published(TABLES[name])


def expect_hosts(name):
    """What each zone has exchanged with each host: {(zone, side, day, host): counters}; "" where a line names none."""
    usage: dict = {}
    for line in filter(None, read(name)):
        owner = owner_of(line.identity)
        success = int(line.status[:1] == "2" or line.status == "404")
        host = domain(line.host).strip("-")
        for side, counters in ((Side.TARGET, line.target), (Side.CLIENT, line.client)):
            if counters and not isinstance(owner, str):
                key = (owner, side, line.time_ms // 86_400_000 * 86_400, host)
                added = (line.requests, success, *counters)
                usage[key] = [a + b for a, b in zip(usage.get(key, [0] * 4), added, strict=True)]
    return usage


@pytest.mark.parametrize("name", FILES)
def test_a_captured_log_is_counted_by_host_to_the_byte(ready, name):
    """Each host has what its lines say, and `other` what the lines say that name none."""
    expected = expect_hosts(name)
    assert len({host for *_, host in expected}) >= 3
    ready.ingest(FILES[name], LOGS / name, status=int(None in read(name)))
    catalog = Catalog.open(f"sqlite:///{ready.data}/catalog.db")
    store = SqliteStore(ready.data / "usage.db")
    found = {}
    for side in Side:
        for account in ACCOUNTS:
            asked = TargetsQuestion(account, Span(START, START + 30 * 86_400), side=side)
            for zone, rows in Reports(catalog, store, {}).answer(asked).zones:
                for day, host, *counters in rows:
                    found[(account, zone.name), side, day, "" if host == OTHER else host] = counters
    store.close()
    catalog.close()
    assert found == {key: counters for key, counters in expected.items() if any(counters)}


def test_all_logs_together_add_up(ready):
    """Ten files of six formats in one store, two of them twice; and `usage` prints the same sums."""
    usage: Counter = Counter()
    for log_format in set(FILES.values()):
        names = [name for name, f in FILES.items() if f == log_format]
        received = 0
        for name in names:
            expected, outcomes = expect(name)
            usage.update({(*key, i): n for key, counters in expected.items() for i, n in enumerate(counters)})
            received += outcomes.received
        twice = names * 2 if log_format == "varnish" else names
        total = ready.ingest(log_format, *(LOGS / n for n in twice), status=int(log_format in REJECTING))
        assert total.adds_up
        assert total.received == total.duplicate + received
        assert total.duplicate == (received if twice != names else 0)
    assert {(*key, i): n for key, counters in stored(ready).items() for i, n in enumerate(counters)} == usage

    for side, grain, resolution in ((Side.TARGET, "5m", 300), (Side.CLIENT, "day", 86_400)):
        arguments = ("--resolution", grain, "--side", side, "--group-by", "zone", "--output", "json")
        rows = json.loads(ready("usage", "acme", *arguments).stdout)["rows"]
        printed = {
            (
                ("acme", row["zone"]),
                side,
                resolution,
                int(dt.datetime.fromisoformat(row["bucket"]).timestamp()),
                i,
            ): row[n]
            for row in rows
            for i, n in ((0, "requests"), (2, "bytes_up"), (3, "bytes_down"))
        }
        assert printed
        assert printed == {
            key: n for key, n in usage.items() if key[0][0] == "acme" and key[1:3] == (side, resolution) and key[4] != 1
        }


def test_corrupt_lines_of_traffic_server_hurt_no_neighbour(command):
    """Lines that a denied CONNECT leaves behind are rejects, and no part of a password is kept anywhere."""
    name = "trafficserver/access_meter.log"
    done = command("ingest", "--format", "trafficserver", LOGS / name, status=1)
    rejects = command("rejects", "--json")
    rows = json.loads(rejects.stdout)["rejects"]
    assert [(row["line"], row["reason"]) for row in rows] == [(n, "corrupt") for n in (51, 99, 147, 198)]
    content = (LOGS / name).read_bytes()
    raw = content.splitlines(keepends=True)
    for row in rows:
        assert row["byte"] == len(b"".join(raw[: row["line"] - 1]))
    lines = command("rejects", "--lines").stdout
    assert lines == b"".join(raw[row["line"] - 1] for row in rows)
    credentials = set(re.findall(rb"Basic (\S+)", content))
    passwords = {base64.b64decode(c).partition(b":")[2] for c in credentials}
    assert credentials
    assert passwords
    kept = b"".join(path.read_bytes() for path in command.data.iterdir() if path.is_file())
    for shown in (kept, done.stdout, done.stderr, rejects.stdout, lines):
        assert not [c for c in credentials if c in shown]


def test_a_haproxy_log_as_soon_as_possible_is_refused_loudly(command):
    """Lines that HAProxy wrote before the transfer say so, are counted nowhere, and mark the source."""
    done = command("ingest", "--format", "haproxy", LOGS / "haproxy/tcp_sni.log", status=1)
    assert b"CANNOT BE METERED" in done.stderr
    assert b"option logasap" in done.stderr
    rows = json.loads(command("rejects", "--json").stdout)["rejects"]
    assert [row["line"] for row in rows] == list(range(77, 84))
    assert [s["note"] for s in json.loads(command("sources", "--json").stdout)["sources"]] == ["unmeterable"]
