"""Clients that nobody here wrote, unmodified, against a running Bandmeter: what they print is what was counted.

`make test` installs them into .venv/clients.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

INSTALLED = Path(sys.prefix) / "clients"
BRIGHTDATA = INSTALLED / "node_modules" / ".bin" / "brightdata"
EVOMI = INSTALLED / "bin" / "evomi-mcp"
CALL_TOOL = Path(__file__).resolve().parents[1] / "clients" / "call_tool.py"
BANDMETER = Path(sys.executable).parent / "bandmeter"
NOW = "2026-11-22T12:00:00Z"
GIB, MIB = 2**30, 2**20
CATALOG = {
    "accounts": [
        {
            "id": "acme",
            "prepayment": "100",
            "zones": [
                {"name": "dc1", "network": "dc", "plan": {"plan": "per_gb", "price": "2"}},
                {"name": "res1", "network": "res", "plan": {"plan": "per_gb", "price": "2"}},
            ],
        },
        {
            "id": "globex",
            "email": "ops@globex.example",
            "email_verified": True,
            "proxy_username": "globex_user",
            "zones": [{"name": "rp1", "network": "res", "product": "rpc"}],
        },
    ],
}
# 5 GiB and 250 MiB this month, on two days; and last month's, which no question below asks for.
GLOBEX = [
    {"time": "2026-11-20T00:00:00Z", "bytes_up": 1, "bytes_down": 4_999},
    {"time": "2026-11-21T12:00:00Z", "bytes_up": 1_000_000, "bytes_down": 25_494_999, "pool": "extra"},
    {"time": "2026-11-22T11:59:00Z", "bytes_up": 500_000, "bytes_down": 500_000},
    {"time": "2026-11-19T23:59:59.999Z", "bytes_up": 0, "bytes_down": 10**9},
]
RECORDS = [
    {"time": "2026-11-20T10:00:00Z", "zone": "dc1", "bytes_up": GIB, "bytes_down": 3 * GIB},
    {"time": "2026-11-21T23:59:59.999Z", "zone": "dc1", "bytes_up": 0, "bytes_down": GIB},
    {"time": "2026-11-21T00:00:00Z", "zone": "res1", "bytes_up": 50 * MIB, "bytes_down": 200 * MIB},
    {"time": "2026-10-31T23:59:59.999Z", "zone": "dc1", "bytes_up": 0, "bytes_down": 7 * GIB},
    {"time": "2026-11-22T00:00:00Z", "zone": "dc1", "bytes_up": 0, "bytes_down": GIB},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A Bandmeter with the records above: its address, and a key for each account."""
    data = tmp_path_factory.mktemp("clients")
    (data / "catalog.json").write_text(json.dumps(CATALOG))
    records = [r | {"account": "acme"} for r in RECORDS] + [r | {"account": "globex", "zone": "rp1"} for r in GLOBEX]
    (data / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    environment = os.environ | {"BANDMETER_DATA": str(data / "data"), "BANDMETER_NOW": NOW}

    def run(*words):
        done = subprocess.run([BANDMETER, *words], env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    (data / "data").mkdir(mode=0o700)
    run("apply", data / "catalog.json")
    run("ingest", "--format", "jsonl", data / "records.jsonl")
    keys = {account: run("key", "add", account) for account in ("acme", "globex")}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([BANDMETER, "serve", "--port", str(port)], env=environment, stdout=subprocess.PIPE)
    assert b"Listening" in server.stdout.readline()
    yield f"http://127.0.0.1:{port}", keys
    server.terminate()
    server.communicate(timeout=30)


@pytest.fixture
def brightdata(served, tmp_path):
    """The vendor's command line client, told to ask us."""
    if not BRIGHTDATA.exists():
        pytest.skip("the clients are not installed: `make test` does it, with npm")
    address, keys = served
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "NO_COLOR": "1"}
    environment |= {"BRIGHTDATA_API_KEY": keys["acme"], "CI": "1"}

    def run(*words):
        done = subprocess.run(
            [BRIGHTDATA, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)

    run("config", "set", "api_url", address)
    return run


def test_brightdata_budget_shows_balance_and_pending_costs(brightdata):
    """100 prepaid, less 2 a GB: October's 7 GiB are closed costs, November's 6 GiB and 250 MiB are pending."""
    pending = 2 * (6 * GIB + 250 * MIB) / 10**9
    balance = 100 - pending - 2 * 7 * GIB / 10**9
    shown = brightdata("budget")
    assert re.search(rf"Balance\s+\${balance:.2f}\s", shown), shown
    assert re.search(rf"Pending charge\s+\${pending:.2f}\s", shown), shown


def test_brightdata_budget_zones_shows_each_zones_cost_and_bytes(brightdata):
    """Two days, the end exclusive: the client's GB are 2^30 bytes."""
    shown = brightdata("budget", "zones", "--from", "2026-11-20", "--to", "2026-11-22")
    rows = {cells[0]: cells[1:] for cells in ([c.strip() for c in line.split("|")] for line in shown.splitlines())}
    assert rows["dc1"] == [f"${2 * 5 * GIB / 10**9:.2f}", "5.0 GB"]
    assert rows["res1"] == [f"${2 * 250 * MIB / 10**9:.2f}", "250.0 MB"]
    assert rows["TOTAL"][0] == f"${2 * (5 * GIB + 250 * MIB) / 10**9:.2f}"


def test_brightdata_budget_zone_shows_one_zones_cost_and_bytes(brightdata):
    shown = brightdata("budget", "zone", "dc1", "--from", "2026-11-20", "--to", "2026-11-22")
    assert re.search(r"Bandwidth used:\s+5\.0 GB", shown), shown
    assert re.search(rf"Cost[^$]*\${2 * 5 * GIB / 10**9:.2f}", shown), shown


def test_brightdata_zones_lists_the_active_zones_with_their_types(brightdata):
    shown = brightdata("zones")
    assert re.search(r"dc1\s*\|\s*dc\b", shown), shown
    assert re.search(r"res1\s*\|\s*res_rotating\b", shown), shown


def test_brightdata_says_that_a_wrong_key_is_wrong(served, tmp_path):
    """The client must see a refusal as one, not as zero."""
    if not BRIGHTDATA.exists():
        pytest.skip("the clients are not installed: `make test` does it, with npm")
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "BRIGHTDATA_API_KEY": "bm_x_y"}
    for words in (["config", "set", "api_url", served[0]], ["budget"]):
        done = subprocess.run(
            [BRIGHTDATA, *words], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode != 0
    assert "$0.00" not in done.stdout


@pytest.fixture
def evomi(served):
    """Evomi's own MCP server, told to ask us; call one of its tools."""
    if not EVOMI.exists():
        pytest.skip("the clients are not installed: `make test` does it")
    address, keys = served
    environment = os.environ | {"EVOMI_PUBLIC_BASE_URL": address, "EVOMI_PUBLIC_API_KEY": keys["globex"]}

    def call(tool, **arguments):
        command = [EVOMI.with_name("python"), CALL_TOOL, EVOMI, tool, json.dumps(arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def test_evomi_get_proxy_usage_shows_three_days_in_megabytes(evomi):
    """MB are 10^6 bytes, each rounded half up from its own bytes: 5,000 B are 0.01 MB, 26,494,999 B are 26.49."""
    shown = evomi("get_proxy_usage", product="rpc")
    assert shown["total_bandwidth_mb"] == 27.5
    assert (shown["period"], shown["granularity"], shown["bucket_count"]) == ("3d", "day", 3)
    assert [(bucket["time"], bucket["total_mb"]) for bucket in shown["buckets"]] == [
        ("2026-11-20 00:00", 0.01),
        ("2026-11-21 00:00", 26.49),
        ("2026-11-22 00:00", 1.0),
    ]


def test_evomi_get_proxy_usage_shows_24_hours(evomi):
    """The rolling day of NOW, 12:00, is 13:00 of yesterday to the running hour."""
    shown = evomi("get_proxy_usage", product="rpc", period="24h", max_buckets=24)
    assert (shown["total_bandwidth_mb"], shown["granularity"], shown["bucket_count"]) == (1.0, "hour", 24)
    assert [bucket["time"] for bucket in shown["buckets"] if bucket["total_mb"]] == ["2026-11-22 11:00"]


def test_evomi_list_proxy_products_shows_the_accounts_products(evomi):
    assert "rpc" in json.dumps(evomi("list_proxy_products"))
