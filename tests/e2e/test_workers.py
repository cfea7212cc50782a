"""`serve --workers 2`: one limit, one set of keys and one set of counters over all workers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from array import array
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bandmeter.catalog import Catalog
from bandmeter.domain.contracts import Batch, SourceState
from bandmeter.domain.tenancy import Account, Scope
from bandmeter.domain.usage import Outcomes, pack
from bandmeter.store import SqliteStore

NOW = "2026-11-22T12:00:30Z"
NOW_S = 1_795_348_830  # the same
LIMIT = 60
THREADS = 8
COMMITS = 40  # of each writer
TRIES_MAX = 2_000  # of something that takes a few hundredths of a second


@pytest.fixture
def catalog(tmp_path):
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "usage.db").touch()
    (data / "bandmeter.toml").write_text(f"[limits]\nnative = {LIMIT}\n")
    made = Catalog.open(f"sqlite:///{data}/catalog.db")
    made.add_account(Account("acme"))
    made.add_zone("acme", "one", now_s=0)
    yield made
    made.close()


@pytest.fixture
def served(catalog, tmp_path, serve_folder):
    with serve_folder(tmp_path / "data", tmp_path / "log", 2, BANDMETER_NOW=NOW) as running:
        yield running


def ask(served, path, key, times):
    """How often each status came, each request over a connection of its own: any worker may get it."""

    def one(_):
        headers = {"Authorization": f"Bearer {key}", "x-apikey": key, "Connection": "close"}
        # A worker that is killed takes its connections with it.
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(served.url + path, headers=headers, timeout=30).status_code
        return 0

    with ThreadPoolExecutor(THREADS) as threads:
        return Counter(threads.map(one, range(times)))


def scraped(served):
    """The samples of `/metrics` by name and labels."""
    text = httpx.get(f"{served.url}/metrics", timeout=30).text
    return {name: float(value) for name, value in re.findall(r"^(\w+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}


def answered(samples):
    return sum(value for name, value in samples.items() if name.startswith("bandmeter_requests_total"))


def has_answered(worker):
    """Whether a worker answered at least once: then it counts in a file of its own."""
    return f"/counter_{worker}.db" in Path(f"/proc/{worker}/maps").read_text()


def test_two_workers_let_exactly_the_limit_pass(served, catalog):
    key = catalog.add_key("acme", Scope.READ, None, 0)
    assert ask(served, "/v1/zones", key, 2 * LIMIT) == {200: LIMIT, 429: LIMIT}
    assert [has_answered(worker) for worker in served.workers()] == [True, True]


def test_a_new_key_and_a_revoked_one_are_seen_by_all_workers_at_once(served, catalog):
    for _ in range(2):
        key = catalog.add_key("acme", Scope.READ, None, 0)
        assert ask(served, "/v1/zones", key, 30) == {200: 30}
        catalog.revoke_key(key[3:15])
        assert ask(served, "/v1/zones", key, 30) == {401: 30}


def test_what_was_committed_is_in_every_workers_next_answer(served, catalog, tmp_path):
    """Two writers outside the server, each of which asks after each of its commits; meanwhile replies are kept."""
    key = catalog.add_key("acme", Scope.READ, None, 0)
    zone, headers = catalog.zone("acme", "one").number, {"Authorization": f"Bearer {key}"}
    begun, committed = Counter(), Counter()

    def carried() -> int:
        with httpx.Client(base_url=served.url, headers=headers, timeout=30) as client:  # any worker may get it
            data = client.get("/zone/bw?zone=one").json()["acme"]["data"]["one"]
            return sum(data.get("http_direct_req", []))

    def write(writer: int) -> None:
        store = SqliteStore(tmp_path / "data" / "usage.db")
        state = SourceState(0, f"{writer}", "jsonl", "", b"", 0, b"", 0, "", Outcomes(), None, None, "")
        with contextlib.closing(store):
            for _ in range(COMMITS):
                begun[writer] += 1
                row = array("q", [zone, NOW_S // 300 * 300, pack(scheme="http", network="dc"), 1, 1, 5, 5, 0, 0, 0, 0])
                after = state._replace(position=state.position + 1, head=b"x")
                number = store.write(Batch(state, after, row, {zone: NOW_S * 1000}, [], NOW_S * 1000))
                assert number
                state = after._replace(number=number)
                committed[writer] += 1
                for _ in range(4):
                    least = committed.total()
                    assert least <= carried() <= begun.total()

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, range(2)))
    assert {carried() for _ in range(20)} == {2 * COMMITS}
    assert [has_answered(worker) for worker in served.workers()] == [True, True]


def test_metrics_are_the_sum_of_all_workers_and_never_go_back(served, catalog):
    """Also when a worker is killed, and another takes its place."""
    key = catalog.add_key("acme", Scope.READ, None, 0)
    assert ask(served, "/v1/zones", key, 20) == {200: 20}
    assert ask(served, "/zone/bw", key, 10) == {400: 10}
    before = scraped(served)
    assert before['bandmeter_requests_total{dialect="native",endpoint="zones",status="200"}'] == 20
    assert before['bandmeter_requests_total{dialect="brightdata",endpoint="zone_bw",status="400"}'] == 10
    assert before['bandmeter_request_seconds_count{dialect="native",endpoint="zones"}'] == 20
    assert before['bandmeter_records{outcome="received"}'] == before["bandmeter_committed_ms"] == 0
    old = set(served.workers())
    os.kill(min(old), signal.SIGKILL)
    assert any(len(set(served.workers()) - old) == 1 for _ in range(TRIES_MAX) if ask(served, "/healthz", key, 1))
    seen = {answered(scraped(served)) for _ in range(10)}
    assert seen == {30}
    more = ask(served, "/v1/zones", key, 30)
    assert answered(scraped(served)) == 30 + more[200]
    assert more[200] > 0
