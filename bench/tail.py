"""How long a line waits, from its newline on disk until an answer includes it, while `serve` follows a growing log.

Lines are appended at a steady rate, twenty times a second, and a reader asks for the zone's usage again and again over
one connection. A line is in an answer when the answer's requests have reached its number: its wait is over when that
answer has come.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from bench import measure, server

RATE = int(os.environ.get("BENCH_LINES", "20000"))  # lines a second
SECONDS = float(os.environ.get("BENCH_SECONDS", "10"))
STEPS = 20  # appends a second
COLUMNS = "time,identity,method,host,status,target_ip,bytes_up,bytes_down"
CONFIG = """[[source]]
name = "bench"
format = "tsv"
path = "{path}"
columns = "{columns}"
"""


def _lines(second: float, first: int, count: int) -> bytes:
    return b"".join(
        b"%.3f\tcust-acme-zone-res-session-%d\tCONNECT\twww.site%d.com\t200\t192.0.2.1\t700\t9000\n"
        % (second, n, n % 1_000)
        for n in range(first, first + count)
    )


class _Writer(threading.Thread):
    """Appends, and notes when so many lines were on disk: `steps` of (lines, time)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.steps: list[tuple[int, float]] = []
        self._path = path

    def run(self) -> None:
        written, start = 0, time.perf_counter()
        with self._path.open("ab", buffering=0) as log:
            for step in range(int(SECONDS * STEPS)):
                content = _lines(time.time(), written, RATE // STEPS)
                wait = start + step / STEPS - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                log.write(content)
                written += RATE // STEPS
                self.steps.append((written, time.perf_counter()))


def _ask(connection: socket.socket, request: bytes) -> int:
    """How many requests the zone has by now."""
    connection.sendall(request)
    answer = connection.recv(1 << 16)
    while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
        answer += connection.recv(1 << 16)
    rows = json.loads(answer.partition(b"\r\n\r\n")[2])["rows"]
    return sum(row["requests"] for row in rows)


def _waits(port: int, key: str, path: Path) -> list[float]:
    """Seconds that each line has waited."""
    head = f"Host: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
    request = f"GET /v1/usage?resolution=total&zones=res HTTP/1.1\r\n{head}".encode()
    seen = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        before = _ask(connection, request)
        writer = _Writer(path)
        writer.start()
        total = int(SECONDS * STEPS) * (RATE // STEPS)
        while not seen or seen[-1][0] < total:
            count = _ask(connection, request) - before
            seen.append((count, time.perf_counter()))
        writer.join()
    waits, answers = [], iter(seen)
    count, moment = next(answers)
    for lines, written in writer.steps:
        while count < lines:
            count, moment = next(answers)
        waits += itertools.repeat(moment - written, RATE // STEPS)
    return waits


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        folder = Path(root) / "data"
        folder.mkdir(mode=0o700)
        path = Path(root) / "access.log"
        path.touch()
        (folder / "bandmeter.toml").write_text(CONFIG.format(path=path, columns=COLUMNS))
        bandmeter = [str(server.BIN / "bandmeter"), "--data", str(folder)]
        document = json.dumps({"accounts": [{"id": "acme", "zones": [{"name": "res", "network": "res"}]}]})
        subprocess.run([*bandmeter, "apply", "-"], input=document.encode(), check=True, stdout=subprocess.DEVNULL)
        made = subprocess.run([*bandmeter, "key", "add", "acme"], check=True, capture_output=True, text=True)
        with server.bandmeter(folder, "", is_pinned=False) as running:
            waits = _waits(running.port, made.stdout.strip(), path)
    cuts = statistics.quantiles(waits, n=1000)
    measure.report(
        "tail",
        [
            {"what": f"a line's wait at {RATE:,} lines/s, {name}", "ms": cuts[n] * 1000}
            for name, n in (("p50", 499), ("p90", 899), ("p99", 989), ("p99.9", 998))
        ],
    )


if __name__ == "__main__":
    main()
