"""The Bright Data vectors: stored traffic and a request go in, the vendor's answer comes out, to the number.

Each file of `brightdata/` is one vector: its `source` and whether that was seen `live` or is `documented`, the
`catalog` and `traffic` that are stored (of which so many hosts a day, if it says `hosts_per_day`), `now`, the `request` with its body (`json`, or `content` as it is), and the
`response`: `status`, `headers` (those that matter), and `body` (equal), `body_includes` (part of it) or `text`.
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
from bandmeter.dialects import DIALECTS
from bandmeter.dialects.brightdata import BRIGHTDATA
from bandmeter.domain import errors, usage
from bandmeter.domain.contracts import Batch, Hosts, SourceState
from bandmeter.domain.errors import BandmeterError
from bandmeter.domain.tenancy import Scope
from bandmeter.domain.usage import Outcomes
from bandmeter.pricing import PRICES
from bandmeter.reports import Reports
from bandmeter.store import MemoryStore
from bandmeter.web.app import build

VECTORS = {
    path.stem: json.loads(path.read_text("utf-8")) for path in (Path(__file__).parent / "brightdata").glob("*.json")
}
ACCOUNT = "CUSTOMER_ID"


def milliseconds(text: str) -> int:
    return round(dt.datetime.fromisoformat(text).timestamp() * 1000)


def store_of(vector, catalog) -> MemoryStore:
    store = MemoryStore(hosts_per_day=vector.get("hosts_per_day", 100))
    rows, newest_ms, hosts = array("q"), {}, Hosts([], array("q"))
    for record in vector["traffic"]:
        zone = catalog.zone(record["account"], record["zone"])
        at_ms = milliseconds(record["time"])
        counters = [record["requests"], record.get("successes", 0), record["bytes_up"], record["bytes_down"]]
        dimensions = usage.pack(**{d: record[d] for d in usage.DIMENSIONS if d in record})
        rows.extend([zone.number, at_ms // 300_000 * 300, dimensions, *counters, 0, 0, 0, 0])
        newest_ms[zone.number] = max(at_ms, newest_ms.get(zone.number, at_ms))
        if "host" in record:
            hosts.names.append(record["host"])
            hosts.rows.extend([zone.number, at_ms // 86_400_000 * 86_400, *counters, 0, 0, 0, 0])
    if rows:
        before = SourceState(0, "files", "tsv", "a.log", b"", 0, b"", 0, "", Outcomes(), None, None, "")
        assert store.write(Batch(before, before, rows, newest_ms, [], milliseconds(vector["now"]), hosts=hosts))
    return store


def secrets_of(catalog, now_s: int) -> dict[str, str]:
    made = {
        "read": catalog.add_key(ACCOUNT, Scope.READ, None, now_s),
        "admin": catalog.add_key(ACCOUNT, Scope.ADMIN, None, now_s),
        "ingest": catalog.add_key(ACCOUNT, Scope.INGEST, None, now_s),
        "revoked": catalog.add_key(ACCOUNT, Scope.READ, None, now_s),
        "expired": catalog.add_key(ACCOUNT, Scope.READ, now_s, now_s - 1),
        "operator": catalog.add_key(None, Scope.ADMIN, None, now_s),
    }
    (revoked,) = (key.id for key in catalog.keys(ACCOUNT) if f"_{key.id}_" in made["revoked"])
    catalog.revoke_key(revoked)
    unknown = made["read"][:-1] + ("A" if made["read"][-1] != "A" else "B")
    return {**made, "unknown": unknown, "malformed": "é\x00 ' OR 1=1"}


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


def ask(app, request, secrets, prefix: str) -> httpx.Response:
    headers = [(name.encode(), value.encode("latin-1")) for name, value in request.get("headers", [])]
    if request["key"]:
        scheme = request.get("scheme", "Bearer")
        headers.append((b"authorization", f"{scheme} {secrets[request['key']]}".encode("latin-1")))
    query = request.get("query_string", urlencode(request["query"]))

    async def send():
        transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            method, url = request.get("method", "GET"), f"{prefix}{request['path']}?{query}"
            body = {name: request[name] for name in ("json", "content") if name in request}
            return await client.request(method, url, headers=headers, **body)

    return asyncio.run(send())


def includes(whole, part) -> bool:
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            key in whole and includes(whole[key], value) for key, value in part.items()
        )
    return whole == part


@pytest.mark.parametrize("prefix", ["", "/api"])
@pytest.mark.parametrize("name", sorted(VECTORS))
def test_vector(name, prefix, tmp_path):
    """A stored request has the answer that the vendor's pages, or live answers, or our page give it."""
    vector = VECTORS[name]
    now_ms = milliseconds(vector["now"])
    catalog = Catalog.open(f"sqlite:///{tmp_path}/catalog.db")
    catalog.apply(vector["catalog"], now_ms // 1000, lambda kind, fields: PRICES[kind].parse(fields))
    if vector.get("suspended"):
        catalog.suspend_account(ACCOUNT)
    secrets = secrets_of(catalog, now_ms // 1000)
    reports = Broken(vector["broken"]) if "broken" in vector else Reports(catalog, store_of(vector, catalog), PRICES)
    app = build(reports, catalog, DIALECTS, lambda: now_ms, list)

    answer, expected = ask(app, vector["request"], secrets, prefix), vector["response"]
    catalog.close()

    assert answer.status_code == expected["status"], answer.text
    assert {h: answer.headers.get(h) for h in expected["headers"]} == expected["headers"]
    if "text" in expected:
        assert answer.text == expected["text"]
    if "body" in expected:
        assert answer.json() == expected["body"]
    if "body_includes" in expected:
        assert includes(answer.json(), expected["body_includes"]), answer.text
    assert {"body", "body_includes", "text"} & expected.keys()
    assert answer.headers["cache-control"] == "no-store"
    assert not {"x-brd-error", "x-luminati-error"} & answer.headers.keys()


def test_each_vector_names_its_source():
    """A vector says where its answer comes from, and whether that was seen live or is documented."""
    assert all(v["source"] and v["title"] and v["status"] in {"live", "documented"} for v in VECTORS.values())


def test_each_endpoint_has_a_vector():
    """An endpoint without a vector of a success is not built."""
    answered = {v["request"]["path"] for v in VECTORS.values() if v["response"]["status"] == 200}
    for endpoint in BRIGHTDATA.endpoints:
        paths = {p.replace("{network}", n) for p in endpoint.paths for n in ("all", "res", "dc", "mobile")}
        assert paths & answered, endpoint.name


def test_each_error_has_a_vector():
    """Every error that HTTP can meet has a status of this dialect, and a vector shows it."""
    shown = {(v["response"]["status"], v["response"].get("text")) for v in VECTORS.values()}
    for code in errors.HTTP_CODES - {errors.PARAMETER_INVALID, errors.PARAMETER_MISSING}:
        reply = BRIGHTDATA.render_error(BandmeterError(code, "internal detail"))
        assert (reply.status, reply.body.decode()) in shown, code
    for sentence in ("Missing zone parameter", "from must not be after to."):
        assert (400, sentence) in shown
