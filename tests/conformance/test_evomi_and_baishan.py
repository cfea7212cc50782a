"""The Evomi and BaishanCloud vectors: stored traffic and a request go in, the vendor's answer comes out.

Each file of `evomi/` and `baishan/` is one vector: its `source` and whether that was seen `live` or is `documented`,
the `catalog` and `traffic` that are stored, `now`, the `request`, in which `{read}` stands for a key that may read, and
the `response`: `status`, `headers` (those that matter; null: absent) and `body`. `timezone`: BaishanCloud's setting.
Traffic's `bytes_up` and `bytes_down` are of the side that the zone bills; `target` and `client` name each counter.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from array import array
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from bandmeter.catalog import Catalog
from bandmeter.dialects import baishan, configure, evomi
from bandmeter.domain import errors, usage
from bandmeter.domain.contracts import Batch, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Scope
from bandmeter.domain.usage import Outcomes, Side
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore, SqliteStore
from bandmeter.web.app import build

DIALECTS = {"evomi": evomi.EVOMI, "baishan": baishan.build("Asia/Shanghai")}
FOLDER = Path(__file__).parent
VECTORS = {
    f"{name}/{path.stem}": json.loads(path.read_text("utf-8"))
    for name in DIALECTS
    for path in (FOLDER / name).glob("*.json")
}
START = SourceState(0, "files", "tsv", "a.log", b"", 0, b"", 0, "", Outcomes(), None, None, "")


def milliseconds(text: str) -> int:
    return round(dt.datetime.fromisoformat(text).timestamp() * 1000)


def fill(store, vector, catalog):
    rows, newest_ms = array("q"), {}
    for record in vector["traffic"]:
        zone = catalog.zone(record["account"], record["zone"])
        at_ms = milliseconds(record["time"])
        dimensions = usage.pack(**{d: record[d] for d in usage.DIMENSIONS if d in record})
        billed = [record.get("requests", 0), 0, record.get("bytes_up", 0), record.get("bytes_down", 0)]
        sides = {zone.side: billed} | {side: record[side] for side in Side if side in record}
        counters = [sides.get(side, [0, 0, 0, 0]) for side in (Side.TARGET, Side.CLIENT)]
        rows.extend([zone.number, at_ms // 300_000 * 300, dimensions, *counters[0], *counters[1]])
        newest_ms[zone.number] = max(at_ms, newest_ms.get(zone.number, at_ms))
    if rows:
        assert store.write(Batch(START, START, rows, newest_ms, [], milliseconds(vector["now"])))
    return store


def secrets_of(catalog, now_s: int) -> dict[str, str]:
    made = {
        "read": catalog.add_key("acme", Scope.READ, None, now_s),
        "ingest": catalog.add_key("acme", Scope.INGEST, None, now_s),
        "revoked": catalog.add_key("acme", Scope.READ, None, now_s),
        "expired": catalog.add_key("acme", Scope.READ, now_s, now_s - 1),
        "operator": catalog.add_key(None, Scope.ADMIN, None, now_s),
    }
    (revoked,) = (key.id for key in catalog.keys("acme") if f"_{key.id}_" in made["revoked"])
    catalog.revoke_key(revoked)
    return {**made, "unknown": made["read"][:-1] + ("A" if made["read"][-1] != "A" else "B")}


class Broken:
    """Reports that fail as a vector says."""

    def __init__(self, how: str) -> None:
        self.error = {
            "rate_limited": BandmeterError(errors.RATE_LIMITED, "more than 10 a second"),
            "unavailable": BandmeterError(errors.UNAVAILABLE, "the disk /dev/sda is full"),
            "fault": ZeroDivisionError("a detail that no caller may see"),
        }[how]

    def answer(self, question):
        raise self.error


def ask(app, request, secrets) -> httpx.Response:
    headers = {name: value.format_map(secrets) for name, value in request.get("headers", [])}
    if request["key"]:
        headers["x-apikey"] = secrets[request["key"]]
    query = urlencode({name: value.format_map(secrets) for name, value in request["query"].items()})

    async def send():
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(request.get("method", "GET"), f"{request['path']}?{query}", headers=headers)

    return asyncio.run(send())


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
@pytest.mark.parametrize("name", sorted(VECTORS))
def test_vector(name, engine, tmp_path):
    """A stored request has the answer that the vendor's pages, or live answers, or our page give it."""
    vector = VECTORS[name]
    now_ms = milliseconds(vector["now"])
    catalog = Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    catalog.apply(vector["catalog"], now_ms // 1000, lambda kind, fields: None)
    secrets = secrets_of(catalog, now_ms // 1000)
    store = MemoryStore() if engine == "memory" else SqliteStore(tmp_path / "usage.db")
    reports = Reports(catalog, fill(store, vector, catalog), PRICES)
    if "broken" in vector:
        reports = Broken(vector["broken"])
    dialects = configure(baishan_timezone=vector.get("timezone", "Asia/Shanghai"))
    app = build(reports, catalog, dialects, lambda: now_ms, list)

    answer, expected = ask(app, vector["request"], secrets), vector["response"]
    store.close()
    catalog.close()

    assert answer.status_code == expected["status"], answer.text
    assert {h: answer.headers.get(h) for h in expected["headers"]} == expected["headers"]
    assert answer.json() == expected["body"]


def test_each_vector_names_its_source():
    """A vector says where its answer comes from, and whether that was seen live or is documented."""
    assert all(v["source"] and v["title"] and v["status"] in {"live", "documented"} for v in VECTORS.values())


@pytest.mark.parametrize("name", DIALECTS)
def test_each_endpoint_has_a_vector(name):
    """An endpoint without a vector of a success is not built."""
    answered = {v["request"]["path"] for v in VECTORS.values() if v["response"]["status"] == 200}
    assert {path for endpoint in DIALECTS[name].endpoints for path in endpoint.paths} <= answered


@pytest.mark.parametrize("name", DIALECTS)
def test_each_parameter_has_a_vector(name):
    """Each parameter is sent by a vector, and each word that it takes is sent and accepted."""
    sent = {}
    for key, vector in VECTORS.items():
        if key.startswith(name) and vector["response"]["status"] == 200:
            for parameter, value in vector["request"]["query"].items():
                sent.setdefault(parameter, set()).add(value)
    for endpoint in DIALECTS[name].endpoints:
        for parameter in endpoint.parameters:
            assert parameter.name in sent
            assert set(parameter.schema.get("enum", ())) <= sent[parameter.name], parameter.name


@pytest.mark.parametrize("name", DIALECTS)
def test_each_error_has_a_vector(name):
    """Every error that HTTP can meet has a status of the dialect, and a vector shows it."""
    shown = {v["response"]["status"] for key, v in VECTORS.items() if key.startswith(name)}
    statuses = {code: DIALECTS[name].render_error(BandmeterError(code, "x")).status for code in errors.HTTP_CODES}
    assert set(statuses.values()) == shown - {200}
    assert 500 not in {status for code, status in statuses.items() if code != errors.FAILURE}
