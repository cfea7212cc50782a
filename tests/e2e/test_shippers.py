"""A real shipper, configured as docs/shippers.md says, and a server that dies: each line counts once."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from bandmeter.catalog import Catalog
from bandmeter.domain.tenancy import Account, Scope
from bandmeter.formats import FORMATS

ROOT = Path(__file__).resolve().parents[2]
NOW = "2026-11-23T00:00:00Z"
LINES = 4_000
KILLS = 4
DROPPED_EVERY = 2  # answer of a batch that was taken
PACE_SECONDS = 0.05  # between two bursts of lines: so a batch is rarely full by itself
WAIT_SECONDS = 180
START_SECONDS_MAX = 120
POLL_SECONDS = 0.02

pytestmark = pytest.mark.skipif(
    not shutil.which("syslog-ng"), reason="syslog-ng is not installed: Debian's syslog-ng-core and syslog-ng-mod-http"
)


class Server:
    """`bandmeter serve`, always on the same port, in a process group that can be killed as a whole."""

    def __init__(self, data, log, port):
        self.data, self.log, self.port = data, log, port
        self.process = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("BANDMETER_", "PROMETHEUS_"))}
        command = [Path(sys.executable).with_name("bandmeter"), "--data", self.data, "serve", "--port", str(self.port)]
        with self.log.open("a") as errors:
            self.process = subprocess.Popen(
                [*command, "--workers", "2"],
                env=clean | {"BANDMETER_NOW": NOW},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        guard = threading.Timer(START_SECONDS_MAX, self.kill)
        guard.start()
        line = self.process.stdout.readline()
        guard.cancel()
        assert line.startswith("Listening on "), self.log.read_text()

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


class Relay:
    """Stands between shipper and server, and now and then does not pass an answer on."""

    def __init__(self, server):
        self.taken = self.dropped = 0
        self.client = client = httpx.Client(timeout=START_SECONDS_MAX)
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                names = ("Authorization", "Content-Type")
                headers = {name: self.headers[name] for name in names}
                try:
                    answer = client.post(server.url + self.path, content=body, headers=headers)
                except httpx.TransportError:
                    self.close_connection = True
                    return
                if answer.status_code == 200:
                    relay.taken += 1
                    if relay.taken % DROPPED_EVERY == 1:
                        relay.dropped += 1
                        self.close_connection = True
                        return
                self.send_response(answer.status_code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
        self.client.close()


def configuration(replaced):
    """What the page shows, for this machine."""
    (text,) = re.findall(
        r"^```syslog-ng\n(.*?)^```$", (ROOT / "docs" / "shippers.md").read_text(), re.MULTILINE | re.DOTALL
    )
    for shown, ours in replaced.items():
        assert text.count(shown) == 1, shown
        text = text.replace(shown, ours)
    return text


@contextlib.contextmanager
def shipping(folder, replaced):
    """syslog-ng, with that configuration."""
    (folder / "syslog-ng.conf").write_text(configuration(replaced))
    files = ["-R", folder / "persist", "-c", folder / "control", "-p", folder / "pid"]
    with (folder / "syslog-ng.log").open("w") as log:
        process = subprocess.Popen(
            ["syslog-ng", "-F", "--no-caps", "-f", folder / "syslog-ng.conf", *files], stdout=log, stderr=log
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)  # an hour of waiting for one that could not start
                raise AssertionError((folder / "syslog-ng.log").read_text())
            yield
        finally:
            process.terminate()
            process.wait(START_SECONDS_MAX)


def squid(n):
    """A line of a request that brought n bytes."""
    columns = dict(zip(FORMATS["squid"].layouts[0].columns, FORMATS["squid"].example.split("\t"), strict=True))
    changed = {
        "ended": f"{1_795_305_600 + n // 100}.{n % 1_000:03}",
        "user": "cust-acme-zone-res",
        "client_port": str(n),
    }
    return "\t".join((columns | changed | {"received": "1", "sent_header": "0", "body": str(n)}).values()) + "\n"


pace = threading.Event()  # is never set


def wait_for(condition, what):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        pace.wait(POLL_SECONDS)


def test_each_line_counts_once_whatever_is_killed_or_lost(tmp_path):
    """Answers are lost, and the server is killed while lines come: it is started again, and the sums are exact."""
    seed = random.randrange(10**6)
    sys.stderr.write(f"seed {seed}\n")
    dice = random.Random(seed)
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "usage.db").touch()
    with contextlib.closing(Catalog.open(f"sqlite:///{data}/catalog.db")) as catalog:
        catalog.add_account(Account("acme"))
        catalog.add_zone("acme", "res", now_s=0)
        sends = catalog.add_key(None, Scope.INGEST, None, 0, same_body_once=True)
        reads = catalog.add_key("acme", Scope.READ, None, 0)
    with contextlib.closing(http.server.HTTPServer(("127.0.0.1", 0), None).socket) as probe:
        port = probe.getsockname()[1]
    server = Server(data, tmp_path / "log", port)
    server.start()

    def counted():
        with contextlib.suppress(httpx.TransportError):
            address = f"{server.url}/v1/usage?from=2026-11-01&resolution=total"
            rows = httpx.get(address, headers={"Authorization": f"Bearer {reads}"}, timeout=30).json()["rows"]
            return tuple(rows[0][name] for name in ("requests", "bytes_up", "bytes_down")) if rows else (0, 0, 0)
        return (0, 0, 0)

    log = tmp_path / "access.log"
    log.touch()
    lines = itertools.count(1)
    with Relay(server) as relay:
        replaced = {
            "/var/log/squid/access_meter.log": str(log),
            "http://127.0.0.1:8080": f"http://127.0.0.1:{relay.server.server_port}",
            "KEY": sends,
            "/var/lib/syslog-ng": str(tmp_path),
            "time-reopen(5)": "time-reopen(1)",
        }
        try:
            with shipping(tmp_path, replaced):
                for round_number in range(KILLS + 1):
                    before, written = counted()[0], 0
                    while written < LINES // (KILLS + 1):
                        size = dice.randrange(1, 60)
                        with log.open("a") as stream:
                            stream.writelines(squid(n) for n in itertools.islice(lines, size))
                        written += size
                        pace.wait(PACE_SECONDS)
                    wait_for(lambda before=before: counted()[0] > before, relay.__dict__.copy)
                    if round_number < KILLS:
                        pace.wait(dice.uniform(0, 1.5))  # anywhere in what goes on
                        server.kill()
                        server.start()
                last = next(lines) - 1
                wait_for(lambda: counted()[0] >= last, lambda: (counted(), last, relay.taken, relay.dropped))
                taken = relay.taken
                wait_for(lambda: relay.taken > taken + DROPPED_EVERY, lambda: relay.taken)  # and what comes again
            assert counted() == (last, last, last * (last + 1) // 2)
            assert relay.dropped > KILLS
        finally:
            server.kill()
