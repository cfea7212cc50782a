"""The native API: every figure against a sum written out plainly, pages, forms, who sees what, and errors."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
import itertools
import json
import math
import random
import sys
from array import array
from collections import defaultdict
from fractions import Fraction
from zoneinfo import ZoneInfo

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bandmeter.catalog import Catalog
from bandmeter.domain import usage
from bandmeter.domain.contracts import EVERY_ACCOUNT, POSTED, Batch, Call, SourceState
from bandmeter.domain.tenancy import Account, Scope, ZoneStatus
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore
from bandmeter.web import native
from bandmeter.web.app import build
from bandmeter.web.native import rates
from bandmeter.web.native import sources as native_sources
from bandmeter.web.native import usage as native_usage

NOW = dt.datetime(2026, 11, 22, 12, 2, tzinfo=dt.UTC)
NOW_S = int(NOW.timestamp())
STEP = 300
ACCOUNTS = {"acme": ("gone", "one", "two"), "beta": ("idle", "one"), "empty": ()}
SOURCE = SourceState(0, "t", "jsonl", "", b"", 0, b"", 0, "", usage.Outcomes(), None, None, "")
DIMENSIONS = [
    usage.pack(scheme=scheme, network=network, ip_version=version, access=access, pool=pool)
    for scheme, network, version, access, pool in (
        ("http", "dc", "4", "api", "default"),
        ("https", "dc", "4", "api", "default"),
        ("https", "res", "6", "lpm", "extra"),
    )
]


def traffic():
    """Random rows (account, zone, second, dimensions, target counters, client counters) of the last 40 days."""
    dice = random.Random(20261122)
    rows = {}
    for account, zones in ACCOUNTS.items():
        for zone in zones:
            for _ in range(0 if zone == "idle" else 60):
                bucket = NOW_S // STEP * STEP - dice.randrange(40 * 86_400 // STEP) * STEP
                key = (account, zone, bucket, dice.choice(DIMENSIONS))
                rows[key] = [dice.randrange(10**9) for _ in range(8)]
    return rows


ROWS = traffic()


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
    keys["admin"] = catalog.add_key(None, Scope.ADMIN, None, 0)
    keys["ingest"] = catalog.add_key(None, Scope.INGEST, None, 0)
    store = MemoryStore()
    flat = array("q")
    for (account, zone, bucket, packed), counters in ROWS.items():
        flat.extend((numbers[account, zone], bucket, packed, *counters))
    newest = {numbers["acme", "one"]: 7_000, numbers["beta", "one"]: 9_000}
    store.write(Batch(SOURCE, SOURCE._replace(head=b"x", position=1), flat, newest, [], 11_000))
    reports = Reports(catalog, store, PRICES)
    yield build(reports, catalog, [native.dialect(reports, catalog)], lambda: NOW_S * 1000, list), keys
    catalog.close()


@pytest.fixture
def ask(server):
    """Ask `/v1/usage`, or another path, with parameters, as an account (`who`)."""
    app, keys = server

    def ask(path="/v1/usage", *, who="acme", accept=None, method="GET", **parameters):
        async def send():
            headers = {"Authorization": f"Bearer {keys[who]}"} if who is not None else {}
            headers |= {"Accept": accept} if accept else {}
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
                named = {name.rstrip("_"): value for name, value in parameters.items()}
                return await client.request(method, path, params=named, headers=headers)

        return asyncio.run(send())

    return ask


def pages(ask, **parameters):
    """The rows of all pages, and how many pages there were."""
    rows, cursor, count = [], {}, 0
    while True:
        body = ask(**parameters, **cursor).json()
        rows += body["rows"]
        count += 1
        if body["next"] is None:
            return rows, count
        cursor = {"cursor": body["next"]}


# ---------------------------------------------------------------- figures


def plain_bucket(second, resolution, timezone, start):
    local = dt.datetime.fromtimestamp(second, ZoneInfo(timezone))
    if resolution == "total":
        return start
    cut = {
        "5m": {},
        "hour": {"minute": 0},
        "day": {"hour": 0, "minute": 0},
        "month": {"day": 1, "hour": 0, "minute": 0},
    }
    return int(local.replace(**cut[resolution]).timestamp())


def plain(accounts, start, end, resolution, timezone, groups, *, side=None, keep=lambda values: True):  # noqa: PLR0917
    """The answer by its definition: every 5-minute row looked at alone. Key → (counters, bytes by 5 minutes)."""
    sums = defaultdict(lambda: [0, 0, 0, 0])
    samples = defaultdict(lambda: defaultdict(int))
    for (account, zone, bucket, packed), counters in ROWS.items():
        values = usage.unpack(packed) | {"account": account, "zone": zone}
        if account not in accounts or not start <= bucket < end or not keep(values):
            continue
        billed = side or ("client" if zone == "two" else "target")
        counted = counters[:4] if billed == "target" else counters[4:]
        key = (plain_bucket(bucket, resolution, timezone, start), *(values[group] for group in groups))
        sums[key] = [a + b for a, b in zip(sums[key], counted, strict=True)]
        samples[key][bucket] += counted[2] + counted[3]
    return sums, samples


def second(text):
    return int(dt.datetime.fromisoformat(text).timestamp())


SPLITS = ["", "zone", "account,zone", "account", "network", "scheme,zone", "zone,ip_version,access,pool,network,scheme"]


@pytest.mark.parametrize("who", ["acme", ""])
@pytest.mark.parametrize("groups", SPLITS)
@pytest.mark.parametrize("resolution", ["5m", "hour", "day", "month", "total"])
@pytest.mark.parametrize(
    "timezone", ["UTC", "Asia/Kathmandu", "America/New_York"]
)  # +05:45, and the end of summer time
def test_every_split_and_resolution_is_the_plain_sum(ask, who, groups, resolution, timezone):
    body = ask(
        who=who,
        group_by=groups,
        resolution=resolution,
        timezone=timezone,
        from_="2026-10-01",
        to="2026-12-01",
        limit=10_000,
    ).json()
    names = groups.split(",") if groups else []
    start, end = second(body["from"]), second(body["to"])
    sums, _ = plain(ACCOUNTS if who == "" else {who}, start, end, resolution, timezone, names)
    found = {
        (second(row["bucket"]), *(row[name] for name in names)): [
            row["requests"], row["successes"], row["bytes_up"], row["bytes_down"]
        ]
        for row in body["rows"]
    }  # fmt: skip
    assert len(found) == len(body["rows"])
    assert body["next"] is None
    assert found == sums


@pytest.mark.parametrize("side", ["target", "client"])
def test_a_side_may_be_chosen(ask, side):
    rows = ask(resolution="total", from_="2026-10-01", side=side).json()["rows"]
    sums, _ = plain({"acme"}, 0, NOW_S, "total", "UTC", ["zone"], side=side)
    assert {row["zone"]: row["bytes_up"] for row in rows} == {zone: found[2] for (_, zone), found in sums.items()}


@pytest.mark.parametrize(
    ("name", "value"),
    [("scheme", "https"), ("network", "dc,res"), ("ip_version", "6"), ("access", "lpm"), ("pool", "extra")],
)
def test_filters_leave_out_the_rest(ask, name, value):
    rows = ask(resolution="total", from_="2026-10-01", group_by="", **{name: value}).json()["rows"]
    sums, _ = plain({"acme"}, 0, NOW_S, "total", "UTC", [], keep=lambda values: values[name] in value.split(","))
    assert [row["bytes_down"] for row in rows] == [found[3] for found in sums.values()]


def test_zones_and_accounts_can_be_chosen(ask):
    def names(**parameters):
        rows = ask(resolution="total", from_="2026-10-01", **parameters).json()["rows"]
        return [(row.get("account"), row["zone"]) for row in rows]

    assert names() == [(None, "gone"), (None, "one"), (None, "two")]
    assert names(zones="two,gone") == [(None, "gone"), (None, "two")]
    assert names(who="", zones="one") == [("acme", "one"), ("beta", "one")]
    assert names(who="", accounts="beta,empty") == [("beta", "one")]
    assert names(who="", accounts="beta", group_by="zone") == [(None, "one")]


def test_an_account_and_zones_that_share_a_name_are_mixed_only_when_asked(ask):
    rows = ask(who="", resolution="total", from_="2026-10-01", group_by="zone").json()["rows"]
    sums, _ = plain(ACCOUNTS, 0, NOW_S, "total", "UTC", ["zone"])
    assert {row["zone"]: row["requests"] for row in rows} == {zone: found[0] for (_, zone), found in sums.items()}


def test_without_dates_the_running_month_and_the_one_before_are_told(ask):
    body = ask().json()
    assert (body["from"], body["to"], body["timezone"]) == ("2026-10-01T00:00:00Z", "2026-11-23T00:00:00Z", "UTC")
    assert ask(resolution="5m").json()["to"] == "2026-11-22T12:05:00Z"
    assert ask(timezone="Asia/Tokyo").json()["from"] == "2026-10-01T00:00:00+09:00"
    assert ask(to="2026-10-15").json()["from"] == "2026-09-01T00:00:00Z"
    assert ask(to="2026-10-01").json()["from"] == "2026-08-01T00:00:00Z"
    assert ask(to="1970-01-02").json()["from"] == "1970-01-01T00:00:00Z"
    body = ask(timezone="Asia/Tokyo", from_="2026-11-02").json()
    assert (body["from"], body["to"]) == ("2026-11-02T00:00:00+09:00", "2026-11-23T00:00:00+09:00")


def test_a_time_may_have_an_offset_also_one_whose_plus_was_not_encoded(ask):
    for text in ("2026-11-02T02:00:00+02:00", "2026-11-02T02:00:00 02:00", "2026-11-02T00:00:00.000Z"):
        assert ask(from_=text).json()["from"] == "2026-11-02T00:00:00Z"


@pytest.mark.parametrize("name", ["localtime", "posixrules", "Factory", "right/America/New_York", "posix/UTC", "UT C"])
def test_what_only_lies_beside_the_time_zones_is_none(ask, name):
    """Its days would be another machine's, or those of clocks that nobody has."""
    answer = ask(timezone=name)
    assert (answer.status_code, answer.json()["code"]) == (400, "parameter_invalid")


def test_fresh_is_of_the_zones_that_were_read(ask):
    assert ask(zones="two").json()["fresh"] == {"newest_ms": None, "committed_ms": 11_000, "reported_ms": None}
    assert ask().json()["fresh"] == {"newest_ms": 7_000, "committed_ms": 11_000, "reported_ms": None}
    assert ask(who="empty").json()["fresh"] == {"newest_ms": None, "committed_ms": 11_000, "reported_ms": None}
    assert ask(who="").json()["fresh"] == {"newest_ms": 9_000, "committed_ms": 11_000, "reported_ms": None}


# ---------------------------------------------------------------- rates


def plain_rate(name, sizes, count):
    """By the definition: all samples, sorted; the highest part dropped; the highest left."""
    ordered = sorted([*sizes, *[0] * (count - len(sizes))])
    if name == "average":
        exact = Fraction(sum(ordered) * 8, count * STEP)
    else:
        percent = Fraction(100 if name == "peak" else name[1:])
        dropped = math.floor((100 - percent) / 100 * count)
        exact = Fraction(ordered[: count - dropped][-1] if dropped < count else ordered[0]) * 8 / STEP
    return math.floor(exact + Fraction(1, 2))


RATES = ["average", "peak", "p0", "p50", "p95", "p99.9", "p99.999", "p100"]


@pytest.mark.parametrize("groups", ["zone", "", "scheme"])
@pytest.mark.parametrize("resolution", ["hour", "day", "month", "total"])
def test_rates_are_of_5_minute_samples_with_idle_ones_as_0(ask, groups, resolution):
    """A running bucket is judged by the samples that have begun."""
    zone = "Asia/Kathmandu"
    parameters = {
        "group_by": groups,
        "resolution": resolution,
        "timezone": zone,
        "from_": "2026-10-01",
        "limit": 10_000,
    }
    body = ask(rate=",".join(RATES), to="2026-12-01", **parameters).json()
    names = groups.split(",") if groups else []
    start, end = second(body["from"]), second(body["to"])
    _, samples = plain({"acme"}, start, end, resolution, zone, names)
    assert len(body["rows"]) == len(samples)
    for row in body["rows"]:
        bucket = second(row["bucket"])
        local = dt.datetime.fromtimestamp(bucket, ZoneInfo(zone)).replace(tzinfo=None)
        lengths = {"hour": 3_600, "day": 86_400, "month": {10: 31, 11: 30}[local.month] * 86_400, "total": end - start}
        count = (min(bucket + lengths[resolution], NOW_S // STEP * STEP + STEP) - bucket) // STEP
        sizes = samples[bucket, *(row[name] for name in names)].values()
        assert {n: row[f"rate_{n}_bps"] for n in RATES} == {n: plain_rate(n, sizes, count) for n in RATES}


def test_the_95th_percentile_of_30_days_drops_432_samples():
    """As bills do: of 8,640 samples the 432 highest go."""
    wanted = [rates.parse("p95")]
    assert rates.compute(wanted, [300] * 432, 8_640) == [0]
    assert rates.compute(wanted, [300] * 433, 8_640) == [8]


@pytest.mark.parametrize("text", ["p101", "p100.1", "p-1", "p", "P95", "p9.9999", "95", "p095", "median", ""])
def test_what_is_no_rate_is_none(ask, text):
    assert rates.parse(text) is None
    assert ask(rate=text).status_code == 400


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("limit", [1, 2, 7, 64])
@pytest.mark.parametrize("who", ["acme", ""])
@pytest.mark.parametrize("groups", ["zone", "account,zone,scheme", "account", "", "network"])
def test_pages_together_are_the_whole(ask, monkeypatch, limit, who, groups):
    """Also where a page may read but two zones, so that some are short or empty."""
    parameters = {"who": who, "group_by": groups, "resolution": "month", "from_": "2026-10-01"}
    whole, count = pages(ask, **parameters)
    assert count == 1
    monkeypatch.setattr(native_usage, "ZONES_PER_PAGE", 2)
    monkeypatch.setattr(native_usage, "ZONES_AT_ONCE", 1)
    found, count = pages(ask, **parameters, limit=limit, rate="peak")
    assert [{name: value for name, value in row.items() if name != "rate_peak_bps"} for row in found] == whole
    assert count >= math.ceil(len(whole) / limit)


def test_a_page_keeps_the_first_ones_period(ask):
    """Although `to` was left out, and time goes on."""
    first = ask(limit=1).json()
    assert ask(limit=1, cursor=first["next"]).json()["to"] == first["to"]


@pytest.mark.parametrize("cursor", ["x", "e30", "WzFd", "W10", "____", "x" * 2_000, "W1tbW1tbW1tbW10"])
@pytest.mark.parametrize("path", ["/v1/usage", "/v1/zones"])
def test_what_is_no_cursor_is_refused(ask, path, cursor):
    answer = ask(path, cursor=cursor)
    assert (answer.status_code, answer.json()["code"]) == (400, "parameter_invalid")


def test_a_cursor_goes_with_its_own_parameters_and_account_only(ask):
    cursor = ask(limit=1).json()["next"]
    assert ask(limit=5, format="csv", cursor=cursor).status_code == 200
    assert ask(limit=1, cursor=cursor, resolution="hour").status_code == 400
    assert ask(limit=1, cursor=cursor, who="beta").status_code == 400
    assert ask("/v1/zones", limit=1, cursor=cursor).status_code == 400


def test_too_many_zones_are_not_mixed_in_one_row(ask, monkeypatch):
    """What the split lacks is told."""
    monkeypatch.setattr(native_usage, "SAMPLES_MAX", 50)
    for who, groups, lacking in (("acme", "scheme", "zone"), ("", "zone", "account")):
        answer = ask(who=who, group_by=groups)
        assert (answer.status_code, f"cannot leave out {lacking}" in answer.text) == (400, True)
    assert ask(group_by="zone").status_code == 200


# ---------------------------------------------------------------- forms


def shown(answer):
    return answer.headers["content-type"].partition(";")[0]


@pytest.mark.parametrize("parameters", [{"rate": "p95", "resolution": "hour"}, {"zones": "two", "to": "2026-11-01"}])
@pytest.mark.parametrize("timezone", ["UTC", "Europe/Paris"])
def test_all_forms_say_the_same(ask, parameters, timezone):
    parameters |= {"timezone": timezone}
    wanted = ask(**parameters).json()
    rows = wanted["rows"]
    written = ask(format="csv", **parameters)
    assert [{k: str(v) for k, v in row.items()} for row in rows] == list(csv.DictReader(io.StringIO(written.text)))
    for form, read in (("parquet", pq.read_table), ("arrow", lambda file: pa.ipc.open_stream(file).read_all())):
        answer = ask(format=form, **parameters)
        table = read(io.BytesIO(answer.content))
        assert table.schema.field("bucket").type.tz == timezone
        assert [row | {"bucket": second(row["bucket"])} for row in rows] == [
            row | {"bucket": int(row["bucket"].timestamp())} for row in table.to_pylist()
        ]
        assert answer.headers["bandmeter-committed-ms"] == "11000"


def test_an_empty_table_has_its_columns(ask):
    for form, read in (("parquet", pq.read_table), ("arrow", lambda file: pa.ipc.open_stream(file).read_all())):
        table = read(io.BytesIO(ask(who="empty", format=form).content))
        assert (table.num_rows, table.column_names[:3]) == (0, ["bucket", "zone", "requests"])


def test_csv_tells_of_the_next_page_in_a_header(ask):
    cursor = ask(format="csv", limit=1).headers["bandmeter-next-cursor"]
    assert cursor == ask(limit=1).json()["next"]
    assert "bandmeter-next-cursor" not in ask(format="csv").headers


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/html, application/xhtml+xml, */*;q=0.8", "application/json"),
        ("text/csv", "text/csv"),
        ("application/json;q=0.1, text/csv;q=0.2", "text/csv"),
        ("TEXT/CSV; charset=utf-8", "text/csv"),
        ("application/vnd.apache.parquet", "application/vnd.apache.parquet"),
        ("application/vnd.apache.arrow.stream, text/csv;q=0.5", "application/vnd.apache.arrow.stream"),
    ],
)
def test_the_accept_header_chooses_unless_a_format_is_named(ask, accept, media_type):
    assert shown(ask(accept=accept)) == media_type
    assert shown(ask(accept=accept, format="csv")) == "text/csv"


@pytest.mark.parametrize("accept", ["image/png", "application/json;q=0", "text/csv;q=x"])
def test_a_form_that_cannot_be_had_is_406(ask, accept):
    answer = ask(accept=accept)
    assert (answer.status_code, answer.json()["code"]) == (406, "format_unavailable")


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_without_pyarrow_its_forms_are_406_and_the_others_go_on(ask, monkeypatch, form):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    answer = ask(format=form)
    assert (answer.status_code, answer.json()["code"]) == (406, "format_unavailable")
    assert "pyarrow" in answer.json()["detail"]
    assert ask(format="csv").status_code == 200


# ---------------------------------------------------------------- zones


def test_zones_are_listed_by_account_and_name_whatever_their_status(ask):
    body = ask("/v1/zones").json()
    assert [(row["zone"], row["status"], row["side"]) for row in body["rows"]] == [
        ("gone", "deleted", "target"),
        ("one", "active", "target"),
        ("two", "active", "client"),
    ]
    assert body["rows"][0]["created"] == "1970-01-01T00:00:00Z"
    everyone = [(row["account"], row["zone"]) for row in ask("/v1/zones", who="").json()["rows"]]
    assert everyone == [(account, zone) for account, zones in ACCOUNTS.items() for zone in zones]
    for limit in (1, 2, 3):
        found, count = pages(ask, path="/v1/zones", who="admin", limit=limit)
        assert [(row["account"], row["zone"]) for row in found] == everyone
        assert count == math.ceil(5 / limit)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("parameters", "status", "code"),
    [
        ({"who": None}, 401, "key_missing"),
        ({"who": "ingest"}, 403, "scope_missing"),
        ({"accounts": "beta"}, 404, "account_unknown"),  # as one that there is not
        ({"accounts": "nobody"}, 404, "account_unknown"),
        ({"accounts": "nobody", "who": ""}, 404, "account_unknown"),
        ({"zones": "idle"}, 404, "zone_unknown"),  # which is another account's
        ({"zones": "one,nothing", "who": ""}, 404, "zone_unknown"),
        ({"zones": ""}, 400, "parameter_invalid"),
        ({"zones": "a,,b"}, 400, "parameter_invalid"),
        ({"zones": "/"}, 400, "parameter_invalid"),
        ({"zones": ",".join(f"z{n}" for n in range(101))}, 400, "parameter_invalid"),
        ({"groupby": "zone"}, 400, "parameter_invalid"),
        ({"group_by": "target"}, 400, "parameter_invalid"),
        ({"scheme": "ftp"}, 400, "parameter_invalid"),
        ({"scheme": ""}, 400, "parameter_invalid"),
        ({"resolution": "week"}, 400, "parameter_invalid"),
        ({"side": "both"}, 400, "parameter_invalid"),
        ({"format": "xml"}, 400, "parameter_invalid"),
        ({"limit": "0"}, 400, "parameter_invalid"),
        ({"limit": "10001"}, 400, "parameter_invalid"),
        ({"limit": "٣"}, 400, "parameter_invalid"),
        ({"timezone": "../etc/passwd"}, 400, "parameter_invalid"),
        ({"from_": "yesterday"}, 400, "parameter_invalid"),
        ({"from_": "2026-02-30"}, 400, "parameter_invalid"),
        ({"from_": "2026-11-02T00:00:00"}, 400, "parameter_invalid"),
        ({"from_": "2026-11-02T00:00:00.5Z"}, 400, "parameter_invalid"),
        ({"from_": "2026-11-23", "to": "2026-11-22"}, 400, "parameter_invalid"),
        ({"from_": "2026-11-02T01:00:00Z"}, 400, "parameter_invalid"),  # no edge of a day
        ({"from_": "2026-11-02T00:01:00Z", "resolution": "total"}, 400, "parameter_invalid"),
        ({"from_": "2020-01-01", "resolution": "total"}, 400, "parameter_invalid"),
        ({"from_": "2020-01-01", "resolution": "month"}, 400, "parameter_invalid"),
        ({"from_": "2026-01-01", "resolution": "5m"}, 400, "parameter_invalid"),
        ({"from_": "1970-01-01", "to": "1970-01-02", "timezone": "Asia/Tokyo"}, 400, "parameter_invalid"),
        ({"path": "/v1/nothing"}, 404, "route_unknown"),
        ({"method": "POST"}, 405, "method_unknown"),
    ],
)
def test_errors_are_problem_details_with_a_stable_code(ask, parameters, status, code):
    """RFC 9457."""
    answer = ask(**parameters)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    body = answer.json()
    assert (body["status"], body["code"], body["type"]) == (status, code, f"urn:bandmeter:problem:{code}")
    assert body["title"]
    assert body["detail"]


@pytest.mark.parametrize(
    ("parameters", "detail"),
    [
        ({"who": None}, "No key was sent: send it in the header `Authorization: Bearer KEY`."),
        ({"zone": "one"}, "There is no parameter 'zone' here: did you mean zones?"),
        ({"groupby": "zone"}, "There is no parameter 'groupby' here: did you mean group_by?"),
        (
            {"path": "/v1/zones", "start": "x"},
            "There is no parameter 'start' here: there are accounts, cursor, format, limit, zones.",
        ),
        (
            {"path": "/v1/nothing"},
            "There is no such path: there are GET /v1/usage, GET /v1/zones, GET /v1/sources, and /docs tells of each.",
        ),
        ({"method": "POST"}, "This path takes GET, HEAD."),
    ],
)
def test_a_mistake_in_the_request_comes_with_what_would_be_right(ask, parameters, detail):
    assert ask(**parameters).json()["detail"] == detail


def test_what_only_the_operator_should_know_is_not_told():
    for code in ("unavailable", "failure"):
        reply = native.problems.render_error(native.problems.BandmeterError(code, "/var/lib/secret is full"))
        assert b"secret" not in reply.body


def test_an_operators_key_is_refused_where_an_endpoint_has_no_use_for_it(ask):
    """All of the native API has; what it sees is everything."""
    for who, path in itertools.product(("", "admin"), ("/v1/usage", "/v1/zones")):
        assert ask(path, who=who).status_code == 200


# ---------------------------------------------------------------- sources


@pytest.mark.parametrize(("is_followed", "newest"), [(True, "1970-01-01T00:00:01Z"), (False, "1970-01-01T00:00:02Z")])
def test_who_posts_under_a_followed_sources_name_makes_it_no_newer(is_followed, newest):
    """Else a log that is silent would look alive; of what nobody follows the newest of all is told."""
    store = MemoryStore()
    for head, newest_ms in ((b"x", 1_000), (POSTED, 2_000)):
        after = SOURCE._replace(head=head, position=1, newest_ms=newest_ms)
        store.write(Batch(SOURCE, after, array("q"), {}, [], 11_000))
    if is_followed:
        store.cover({"t": NOW_S * 1000}, gap_ms=1)
    reply = native_sources.respond(Reports(None, store, PRICES), None, Call(EVERY_ACCOUNT, {}, NOW_S * 1000 + 300_000))
    (row,) = json.loads(reply.body)["rows"]
    assert (row["source"], row["files"], row["newest"]) == ("t", 2, newest)
