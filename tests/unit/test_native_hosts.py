"""The native API by target host: against sums written out plainly, in pages and forms, and what cannot be asked."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
import random
from array import array
from collections import defaultdict

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bandmeter.catalog import Catalog
from bandmeter.domain import usage
from bandmeter.domain.contracts import Batch, Hosts, SourceState
from bandmeter.domain.tenancy import Account, Scope, ZoneStatus
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore
from bandmeter.web import native
from bandmeter.web.app import build
from bandmeter.web.native import cursor, fold

DAY = 86_400
NOW_S = int(dt.datetime(2026, 11, 22, 12, 2, tzinfo=dt.UTC).timestamp())
START = int(dt.datetime(2026, 10, 1, tzinfo=dt.UTC).timestamp())
ACCOUNTS = {"acme": ("gone", "one", "two"), "beta": ("idle", "one"), "empty": ()}
BOUND = 3
HOSTS = ("a.test", "b.test", "bücher.example", "[2001:db8::1]", "z" * 250 + ".zz", None)
SOURCE = SourceState(0, "t", "jsonl", "", b"", 0, b"", 0, "", usage.Outcomes(), None, None, "")
COUNTERS = ("requests", "successes", "bytes_up", "bytes_down")


def traffic():
    """{(account, zone, day, host or None): the eight counters}, over the end of a month."""
    dice = random.Random(20261122)
    found = {}
    for account, zones in ACCOUNTS.items():
        for zone in zones:
            for n in range(0 if zone == "idle" else 8):
                for host in dice.sample(HOSTS, dice.randrange(len(HOSTS))):
                    found[account, zone, START + (27 + n) * DAY, host] = [dice.randrange(10**9) for _ in range(8)]
    return found


TRAFFIC = traffic()


def by_host():
    """The same as it is told: of each zone's day so many hosts, those with the most bytes; the rest as `other`."""
    days = defaultdict(dict)
    for (account, zone, day, host), counters in TRAFFIC.items():
        days[account, zone, day][host] = counters
    found = {}
    for key, hosts in days.items():
        size = {host: sum(c[2:4] + c[6:8]) for host, c in hosts.items() if host is not None}
        kept = sorted(size, key=lambda host: (-size[host], host))[:BOUND]
        for host, counters in hosts.items():
            name = (*key, host if host in kept else "other")
            found[name] = [a + b for a, b in zip(found.get(name, [0] * 8), counters, strict=True)]
    return found


TOLD = by_host()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The application over that traffic, and keys by their account ("": an operator's)."""
    catalog = Catalog.open(f"sqlite:///{tmp_path_factory.mktemp('catalog')}/catalog.db")
    numbers = {}
    for account, zones in ACCOUNTS.items():
        catalog.add_account(Account(account))
        for zone in zones:
            network = "cdn" if zone == "two" else "dc"  # which bills the client's side
            numbers[account, zone] = catalog.add_zone(account, zone, network, now_s=0).number
    catalog.set_zone_status("acme", "gone", ZoneStatus.DELETED)
    keys = {account: catalog.add_key(account or None, Scope.READ, None, 0) for account in ("", *ACCOUNTS)}
    store = MemoryStore(hosts_per_day=BOUND)
    rows, hosts = array("q"), Hosts([], array("q"))
    for (account, zone, day, host), counters in TRAFFIC.items():
        rows.extend((numbers[account, zone], day + 7_200, 1, *counters))
        if host is not None:
            hosts.names.append(host)
            hosts.rows.extend((numbers[account, zone], day, *counters))
    newest = {numbers["acme", "one"]: 7_000, numbers["beta", "one"]: 9_000}
    store.write(Batch(SOURCE, SOURCE._replace(head=b"x", position=1), rows, newest, [], 11_000, hosts=hosts))
    reports = Reports(catalog, store, PRICES)
    yield build(reports, catalog, [native.dialect(reports, catalog)], lambda: NOW_S * 1000, list), keys
    catalog.close()


@pytest.fixture
def ask(server):
    """Ask `/v1/usage` by host, unless told otherwise, since October, as an account (`who`)."""
    app, keys = server

    def ask(*, who="acme", **parameters):
        async def send():
            asked = {"group_by": "zone,host", "from": "2026-10-01"}
            asked |= {name.rstrip("_"): value for name, value in parameters.items()}
            asked = {name: value for name, value in asked.items() if value is not None}
            headers = {"Authorization": f"Bearer {keys[who]}"}
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                return await client.get("/v1/usage", params=asked, headers=headers)

        return asyncio.run(send())

    return ask


def pages(ask, **parameters):
    """The rows of all pages, and how many pages there were."""
    rows, after, count = [], {}, 0
    while True:
        body = ask(**parameters, **after).json()
        rows += body["rows"]
        count += 1
        if body["next"] is None:
            return rows, count
        assert len(body["next"]) <= cursor.LENGTH_MAX
        after = {"cursor": body["next"]}


def shown(second):
    return dt.datetime.fromtimestamp(second, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def plain(accounts, resolution, groups, *, side=None, keep=None, start=START):
    """The answer by its definition, a host of a zone's day at a time: rows as the API shows them."""
    sums = {}
    for (account, zone, day, host), counters in TOLD.items():
        if account not in accounts or (keep is not None and host not in keep) or day < start:
            continue
        billed = side or ("client" if zone == "two" else "target")
        counted = counters[:4] if billed == "target" else counters[4:]
        bucket = {"day": day, "total": start}.get(resolution)
        if bucket is None:
            first = dt.datetime.fromtimestamp(day, dt.UTC).replace(day=1)
            bucket = int(first.timestamp())
        named = {"account": account, "zone": zone, "host": host}
        order = (named["account"] if "account" in groups else "", named["zone"] if "zone" in groups else "", bucket)
        key = (*order, *(named[group] for group in groups if group == "host"))
        row = sums.setdefault(key, {"bucket": shown(bucket), **{group: named[group] for group in groups}})
        for name, value in zip(COUNTERS, counted, strict=True):
            row[name] = row.get(name, 0) + value
    return [sums[key] for key in sorted(sums)]


@pytest.mark.parametrize("limit", [1, 7, 1_000])
@pytest.mark.parametrize("side", [None, "target", "client"])
@pytest.mark.parametrize("resolution", ["day", "month", "total"])
@pytest.mark.parametrize("groups", ["host", "zone,host", "host,zone"])
def test_hosts_of_an_account(ask, groups, resolution, side, limit):
    """However it is split and cut, and whatever a page holds."""
    if limit == 1 and resolution == "day":
        limit = 3  # the same, in fewer requests
    rows, count = pages(ask, group_by=groups, resolution=resolution, side=side, limit=limit)
    assert rows == plain(["acme"], resolution, groups.split(","), side=side)
    assert count >= -(-len(rows) // limit)


@pytest.mark.parametrize("groups", ["account,zone,host", "account,host", "host"])
def test_hosts_of_all_accounts_for_an_operator(ask, groups):
    rows, _ = pages(ask, who="", group_by=groups, resolution="month", limit=5)
    assert rows == plain(ACCOUNTS, "month", groups.split(","))


@pytest.mark.parametrize("hosts", [["a.test"], ["other"], ["b.test", "[2001:db8::1]", "nothing.test"]])
@pytest.mark.parametrize("groups", ["zone,host", "zone", "host", ""])
def test_only_some_hosts(ask, hosts, groups):
    """In any case of letters, with or without a column for them."""
    rows, _ = pages(ask, hosts=",".join(hosts).upper(), group_by=groups, resolution="month")
    assert rows == plain(["acme"], "month", [g for g in groups.split(",") if g], keep=hosts)


def test_hosts_and_other_are_the_usage_without_hosts(ask):
    """To the byte, by day, on either side."""
    for side in ("target", "client"):
        sums = defaultdict(lambda: [0] * 4)
        for row in ask(side=side, limit=10_000).json()["rows"]:
            total = sums[row["zone"], row["bucket"]]
            total[:] = [a + row[name] for a, name in zip(total, COUNTERS, strict=True)]
        whole = ask(side=side, group_by="zone").json()["rows"]
        assert {(row["zone"], row["bucket"]): [row[name] for name in COUNTERS] for row in whole} == sums


def test_by_default_of_two_months_until_the_end_of_today(ask):
    body = ask(from_=None, resolution="total").json()
    assert (body["from"], body["to"]) == ("2026-10-01T00:00:00Z", "2026-11-23T00:00:00Z")
    start = int(dt.datetime(2026, 10, 1, tzinfo=dt.UTC).timestamp())
    assert body["rows"] == plain(["acme"], "total", ["zone", "host"], start=start)


def test_it_says_how_fresh_it_is(ask):
    for who, newest_ms, committed_ms in (("acme", 7_000, 11_000), ("empty", None, 11_000)):
        fresh = ask(who=who).json()["fresh"]
        assert (fresh["newest_ms"], fresh["committed_ms"]) == (newest_ms, committed_ms)


def test_other_forms_have_the_same_rows(ask):
    expected = plain(["acme"], "day", ["zone", "host"])
    rows = list(csv.DictReader(io.StringIO(ask(format="csv").text)))
    assert [{**row, **{name: int(row[name]) for name in COUNTERS}} for row in rows] == expected
    for form, read in (("parquet", pq.read_table), ("arrow", lambda file: pa.ipc.open_stream(file).read_all())):
        table = read(io.BytesIO(ask(format=form).content)).to_pylist()
        assert [row | {"bucket": shown(row["bucket"].timestamp())} for row in table] == expected


@pytest.mark.parametrize(
    ("parameters", "part"),
    [
        ({"resolution": "5m"}, "resolution takes day, month or total by host"),
        ({"resolution": "hour"}, "resolution takes day, month or total by host"),
        ({"timezone": "Asia/Kolkata"}, "timezone takes UTC by host"),
        ({"rate": "p95"}, "rate cannot be had by host"),
        ({"group_by": "host,scheme"}, "group_by cannot take host with scheme"),
        ({"network": "dc"}, "group_by cannot take host with network"),
        ({"hosts": "a.test", "group_by": "zone", "resolution": "hour"}, "resolution takes day, month or total by host"),
        ({"hosts": "a.test", "group_by": "zone", "pool": "extra"}, "group_by cannot take host with pool"),
        ({"hosts": ""}, "hosts takes 1 to 100 names"),
        ({"hosts": "a b"}, "hosts takes 1 to 100 names"),
        ({"hosts": "bücher.example"}, "hosts takes 1 to 100 names"),
        ({"hosts": "a.test,,b.test"}, "hosts has an empty entry"),
        ({"hosts": ",".join(f"{n}.test" for n in range(101))}, "hosts takes at most 100"),
        ({"from_": "2026-10-01T01:00:00Z", "resolution": "total"}, "from and to must be midnights by host"),
        ({"to": "2026-11-01T00:05:00Z"}, "from and to must be midnights by host"),
    ],
)
def test_what_cannot_be_asked_by_host_is_a_problem_that_says_why(ask, parameters, part):
    answer = ask(**parameters)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
    assert answer.json()["code"] == "parameter_invalid"
    assert part in answer.json()["detail"]


def test_what_one_call_reads_is_bounded(ask, monkeypatch):
    """Where rows mix zones; in pages, each reads its own."""
    monkeypatch.setattr(fold, "HOST_ROWS_MAX", 30)
    answer = ask(group_by="host")
    assert answer.status_code == 400
    assert "so many hosts" in answer.json()["detail"]
    monkeypatch.setattr("bandmeter.reports.targets.TARGETS_MAX", 3)
    assert "ask for fewer zones or days" in ask(zones="one").json()["detail"]
