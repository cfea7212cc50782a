"""The dialects' main answers against an empty Starlette answer on the same server, anew and asked again.

Anew: no reply is kept (`kept_bytes = 0`), so each is made from the store: what a zone costs that had traffic since it
was last asked for. Again: each was asked for once before, and nothing has changed. One worker on one processor, the
load generator on another where there are two. Two figures: on the clock, and by the worker's own processor seconds,
which say the same on a busy machine as on a quiet one.
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import filled, load, measure, server

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.filled import Filled

SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
SHAPES = ((10_000, 60), (1_000, 60), (100, 60), (100, 1_095))  # zones, days
PER_S = 1_000  # for the latency
EMPTY = "empty Starlette answer"


class Figures(NamedTuple):
    """Answers a second on the clock; processor microseconds of the worker, and of the generator, for each."""

    per_s: float
    cpu_us: float
    generator_us: float


class Case(NamedTuple):
    """What is asked of which folder."""

    name: str
    data: Filled
    requests: list[bytes]


def get(path: str, *headers: str) -> bytes:
    """A request."""
    return "\r\n".join((f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", "")).encode()


def zone_requests(data: Filled, zones: int) -> list[bytes]:
    """One for each zone, in random order."""
    order = random.Random(1).sample(range(zones), zones)
    return [get(f"/zone/bw?zone=zone{i}", f"Authorization: Bearer {data.keys['bench']}") for i in order]


def cases(root: Path) -> list[Case]:
    """Fill the folders, and say what is asked of them."""
    made = []
    for zones, days in SHAPES:
        data = filled.zones(root / f"{zones}-{days}", zones, days)
        made.append(Case(f"/zone/bw, {zones:,} zones, {days:,} days", data, zone_requests(data, zones)))
    data = filled.sellers(root / "sellers", 200, 5)
    path = "/public/usage?product=rpc&period=3d"
    asked = [get(path, f"x-apikey: {key}") for key in data.keys.values()]
    made.append(Case("/public/usage, 3d, 5 zones", data, asked))
    data = filled.edges(root / "edges", 100, 10)
    key = f"Authorization: Bearer {data.keys['cdn']}"
    times = "start_time=2026-11-21&end_time=2026-11-21"
    asked = [get(f"/v2/stat/bandwidth?domains=d{i}.example.com&{times}", key) for i in range(100)]
    made.append(Case("/v2/stat/bandwidth, 1 domain, 288 points", data, asked))
    tens = [",".join(f"d{10 * n + i}.example.com" for i in range(10)) for n in range(10)]
    times = "start_time=2026-11-13&end_time=2026-11-22"
    asked = [get(f"/v2/stat/bandwidth?domains={ten}&{times}", key) for ten in tens]
    made.append(Case("/v2/stat/bandwidth, 10 domains, 2,880 points", data, asked))
    return made


def main() -> None:
    server.pin_generator()
    found: dict[str, list[Figures]] = {}
    late: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        asked = cases(Path(root))
        for _ in range(measure.RUNS):
            with server.empty() as running:
                found.setdefault(EMPTY, []).append(_figures(running, asked[0].requests, load.each))
            for case in asked:
                for name, keeps in ((f"{case.name}, anew", False), (f"{case.name}, again", True)):
                    with server.bandmeter(case.data.folder, filled.NOW, keeps=keeps) as running:
                        found.setdefault(name, []).append(_figures(running, case.requests, load.each))
                        if case is asked[0]:
                            taken = load.latencies_s(running.port, case.requests, PER_S, SECONDS)
                            late.setdefault(name, []).append(statistics.quantiles(taken, n=100)[98] * 1000)
    _report(found, late)


def _figures(running: server.Server, requests: list[bytes], warm_up: Callable[[int, list[bytes]], None]) -> Figures:
    warm_up(running.port, requests)
    before = running.cpu_s()
    rate = load.answers(running.port, requests, SECONDS)
    spent = running.cpu_s() - before
    return Figures(rate.per_s, spent / rate.answered * 1e6, rate.generator_s / rate.answered * 1e6)


def _report(found: dict[str, list[Figures]], late: dict[str, list[float]]) -> None:
    per_s = {name: measure.median([one.per_s for one in figures]) for name, figures in found.items()}
    cpu_us = {name: measure.median([one.cpu_us for one in figures]) for name, figures in found.items()}
    rows = [
        {
            "answer": name,
            "requests/s": int(per_s[name]),
            "of the empty one": per_s[name] / per_s[EMPTY],
            "processor µs": cpu_us[name],
            "of the empty one's, by processor": cpu_us[EMPTY] / cpu_us[name],
        }
        for name in found
    ]
    measure.report("answers", rows)
    print(f"the load generator took {found[EMPTY][0].generator_us:.0f} µs of its processor for an empty answer")
    rows = [{"at 1,000 requests/s": name, "p99 ms": measure.median(taken)} for name, taken in late.items()]
    measure.report("latency", rows)


if __name__ == "__main__":
    main()
