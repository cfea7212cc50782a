"""Requests/s of `/zone/bw` over 53 days and 7 metrics, against an empty Starlette answer on the same server.

Also p99 at 1,000 requests/s, and that an answer's cost depends neither on the number of zones nor on the length of
history. One worker on one processor, the load generator on another where there are two.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from bandmeter.domain.contracts import Batch, SourceState
from bandmeter.domain.usage import Outcomes, pack
from bandmeter.store.sqlite import SqliteStore
from bench import load, measure

if TYPE_CHECKING:
    from collections.abc import Iterator

BIN = Path(sys.executable).parent
NOW = "2026-11-22T12:00:00Z"
NOW_S = 1_795_348_800
DAY_S = 86_400
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
NOTHING = SourceState(0, "bench", "jsonl", "", b"", 0, b"", 0, "", Outcomes(), None, None, "")
DIMENSIONS = [pack(scheme=scheme, network="dc") for scheme in ("http", "https")]


def fill(folder: Path, zones: int, days: int) -> tuple[str, list[str]]:
    """A data folder with that many zones and days of two schemes' traffic; a key and the zones' names."""
    names = [f"zone{i}" for i in range(zones)]
    document = {"accounts": [{"id": "bench", "zones": [{"name": name, "network": "dc"} for name in names]}]}
    (folder / "catalog.json").write_text(measure.json.dumps(document))
    bandmeter = [str(BIN / "bandmeter"), "--data", str(folder)]
    subprocess.run([*bandmeter, "apply", str(folder / "catalog.json")], check=True, stdout=subprocess.DEVNULL)
    key = subprocess.run([*bandmeter, "key", "add", "bench"], check=True, capture_output=True, text=True).stdout.strip()
    store = SqliteStore(folder / "usage.db")
    dice = random.Random(20261122)
    before = NOTHING
    for day in range(days):
        bucket = (NOW_S // DAY_S - day) * DAY_S + 36_000
        rows = array("q")
        for zone in range(1, zones + 1):
            for dimensions in DIMENSIONS:
                up, down = dice.randrange(10**6), dice.randrange(10**9)
                rows.extend((zone, bucket, dimensions, 100, 90, up, down, 100, 90, up, down))
        after = before._replace(head=b"x", position=day + 1)
        number = store.write(Batch(before, after, rows, {}, [], NOW_S * 1000))
        before = after._replace(number=number)
    store.close()
    return key, names


@contextlib.contextmanager
def served(app: str, env: dict[str, str]) -> Iterator[int]:
    """A granian with one worker, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(BIN / "granian"), "--interface", "asgi", "--port", str(port), "--no-ws", "--log-level", "warning"]
    factory = ["--factory"] if app == "bandmeter.service:asgi" else []
    process = subprocess.Popen([*_pin(0), *command, *factory, app], env=os.environ | env)
    try:
        for _ in range(400):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.025)
        yield port
    finally:
        process.terminate()
        process.wait()


def _pin(cpu: int) -> list[str]:
    return ["taskset", "-c", str(cpu)] if (os.cpu_count() or 1) > 1 and Path("/usr/bin/taskset").exists() else []


def requests(key: str, names: list[str]) -> list[bytes]:
    """One request for each of up to 10,000 zones, in random order."""
    order = random.Random(1).sample(names, len(names))
    head = f"Host: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
    return [f"GET /zone/bw?zone={name} HTTP/1.1\r\n{head}".encode() for name in order]


def main() -> None:
    if (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {1})
    shapes = [(10_000, 60), (1_000, 60), (100, 60), (100, 1_095)]
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        env, asked = {}, {}
        for shape in shapes:
            folder = Path(root) / f"{shape[0]}-{shape[1]}"
            folder.mkdir(mode=0o700)
            key, names = fill(folder, *shape)
            env[shape] = {"BANDMETER_DATA": str(folder), "BANDMETER_NOW": NOW}
            asked[shape] = requests(key, names)
        rates: dict[str, list[float]] = {}
        late: list[float] = []
        for _ in range(measure.RUNS):
            with served("bench.empty:app", {"PYTHONPATH": str(Path(__file__).parent.parent)}) as port:
                rates.setdefault("empty Starlette answer", []).append(_rate(port, asked[shapes[0]]))
            for shape in shapes:
                with served("bandmeter.service:asgi", env[shape]) as port:
                    name = f"/zone/bw, {shape[0]:,} zones, {shape[1]:,} days"
                    rates.setdefault(name, []).append(_rate(port, asked[shape]))
                    if shape == shapes[0]:
                        late.append(_p99(load.latencies_s(port, asked[shape], 1_000, SECONDS)))
    empty = measure.median(rates["empty Starlette answer"])
    measure.report(
        "answers",
        [
            {"answer": name, "requests/s": int(measure.median(r)), "of the empty answer": measure.median(r) / empty}
            for name, r in rates.items()
        ],
    )
    measure.report("latency", [{"at": "1,000 requests/s, 10,000 zones", "p99 ms": measure.median(late) * 1000}])


def _rate(port: int, asked: list[bytes]) -> float:
    load.requests_per_s(port, asked, 0.5)
    return load.requests_per_s(port, asked, SECONDS)


def _p99(taken: list[float]) -> float:
    return statistics.quantiles(taken, n=100)[98]


if __name__ == "__main__":
    main()
