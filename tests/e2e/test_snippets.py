"""The forms that the vendors document for curl and `requests`, with the vendors' host names, through TLS.

A TLS front with a certificate for those names stands before Bandmeter, as an operator's would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trustme

BANDMETER = Path(sys.executable).parent / "bandmeter"
SNIPPETS = Path(__file__).resolve().parents[1] / "clients" / "snippets"
HOSTS = ("api.brightdata.com", "api.evomi.com", "cdn.api.baishan.com")
NOW = "2026-11-22T12:00:00Z"
CATALOG = {
    "accounts": [
        {
            "id": "acme",
            "email_verified": True,
            "zones": [
                {"name": "static", "network": "dc", "product": "sdc", "plan": {"plan": "per_gb", "price": "0.5"}},
                {"name": "www.acme.example", "network": "cdn", "identities": ["www.acme.example"]},
            ],
        },
    ],
}
RECORDS = [
    {
        "time": "2026-11-20T10:00:00Z",
        "account": "acme",
        "zone": "static",
        "bytes_up": 1_000,
        "bytes_down": 2_000_000_000,
    },
    {"time": "2026-11-22T04:02:00Z", "identity": "www.acme.example", "bytes_up": 0, "bytes_down": 3_000_000},
]
REQUESTS = """
import requests

url = "{url}"
headers = {headers}
body = {body}
response = requests.post(url, headers=headers, json=body) if body else requests.get(url, headers=headers)
print(response.text)
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def _pipe(reader, writer):
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := await reader.read(65_536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def tls_front(certificate, port, backend):
    """Ends TLS on `port` and passes the bytes on."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def pass_on(reader, writer):
        behind = await asyncio.open_connection("127.0.0.1", backend)
        await asyncio.gather(_pipe(reader, behind[1]), _pipe(behind[0], writer))

    async def serve():
        server = await asyncio.start_server(pass_on, "127.0.0.1", port, ssl=context)
        ready.set()
        stop = loop.create_future()
        loop.stop_front = lambda: loop.call_soon_threadsafe(stop.set_result, None)
        async with server:
            await stop

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert ready.wait(10)
    yield
    loop.stop_front()
    thread.join(10)
    loop.close()


@pytest.fixture(scope="module")
def vendor(tmp_path_factory):
    """Run a command as if the vendors were on this machine; the key is `vendor.key`."""
    folder = tmp_path_factory.mktemp("front")
    (folder / "catalog.json").write_text(json.dumps(CATALOG))
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    (folder / "data").mkdir(mode=0o700)
    environment = os.environ | {"BANDMETER_DATA": str(folder / "data"), "BANDMETER_NOW": NOW}

    def run(*words):
        done = subprocess.run([BANDMETER, *words], env=environment, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    run("apply", folder / "catalog.json")
    run("ingest", "--format", "jsonl", folder / "records.jsonl")
    key, port, backend = run("key", "add", "acme"), free_port(), free_port()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    server = subprocess.Popen([BANDMETER, "serve", "--port", str(backend)], env=environment, stdout=subprocess.PIPE)
    assert b"Listening" in server.stdout.readline()

    def as_a_user(*command):
        known = {"REQUESTS_CA_BUNDLE": folder / "ca.pem", "CURL_CA_BUNDLE": folder / "ca.pem"}
        known |= {"TLS_FRONT_PORT": port, "PYTHONPATH": SNIPPETS}
        clean = os.environ | {name: str(value) for name, value in known.items()}
        done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    as_a_user.key, as_a_user.port = key, port
    with tls_front(authority.issue_cert(*HOSTS), port, backend):
        yield as_a_user
    server.terminate()
    server.communicate(timeout=30)


# What each vendor documents: address, headers, a figure of the answer that only the right answer has, and a body.
DOCUMENTED = {
    "brightdata /zone/bw": (
        "https://api.brightdata.com/zone/bw?zone=static&from=2026-11-20&to=2026-11-21",
        {"Authorization": "Bearer {key}"},
        lambda answer: answer["acme"]["data"]["static"]["bw_sum"] == [2_000_001_000],
    ),
    "brightdata /api/customer/bw": (
        "https://api.brightdata.com/api/customer/bw",
        {"Authorization": "Bearer {key}"},
        lambda answer: answer["acme"]["sums"]["static"]["back_d2"]["bw_dn"] == 2_000_000_000,
    ),
    "brightdata /zone/cost": (
        "https://api.brightdata.com/zone/cost?zone=static",
        {"Authorization": "Bearer {key}"},
        lambda answer: answer["acme"]["back_m0"]["cost"] == 1 and answer["acme"]["back_d2"]["bw"] == 2_000_001_000,
    ),
    "brightdata /costs/export/json": (
        "https://api.brightdata.com/costs/export/json",
        {"Authorization": "Bearer {key}", "Content-Type": "application/json"},
        lambda answer: answer == {"2026-11-20": {"dc": 1}, "total": {"dc": 1}},
        {"dimension": "products", "filters": {}, "from": "2026-11-01", "to": "2026-12-01"},
    ),
    "evomi /public/usage": (
        "https://api.evomi.com/public/usage?product=sdc&period=3d",
        {"x-apikey": "{key}"},
        lambda answer: answer["meta"]["total_bandwidth_mb"] == 2_000.0,
    ),
    "baishan /v2/stat/bandwidth": (
        (
            "https://cdn.api.baishan.com/v2/stat/bandwidth?token={key}&domains=www.acme.example"
            "&start_time=2026-11-22&end_time=2026-11-22&grad=day&data_type=traffic"
        ),
        {},
        lambda answer: answer == {"code": 0, "data": [[1_795_276_800, 3_000_000.0]]},
    ),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_curl_gets_the_right_figures(vendor, name):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    address, headers, is_right, *body = DOCUMENTED[name]
    address = address.format(key=vendor.key)
    host = address.split("/")[2]
    sent = [part for k, v in headers.items() for part in ("-H", f"{k}: {v.format(key=vendor.key)}")]
    if body:
        sent += ["-X", "POST", "-d", json.dumps(body[0])]
    answer = vendor("curl", "-sS", "--connect-to", f"{host}:443:127.0.0.1:{vendor.port}", *sent, address)
    assert is_right(answer), answer


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_requests_snippet_gets_the_right_figures(vendor, name):
    address, headers, is_right, *body = DOCUMENTED[name]
    filled = {k: v.format(key=vendor.key) for k, v in headers.items()}
    snippet = REQUESTS.format(url=address.format(key=vendor.key), headers=filled, body=body[0] if body else None)
    assert is_right(vendor(sys.executable, "-c", snippet))
