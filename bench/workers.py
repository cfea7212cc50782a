"""Requests/s of `/zone/bw` with two workers against one, in the same run.

Two workers and the load generator want three processors. On a machine with fewer, the generator takes time from what
it measures, and more of it when the server is faster. What can be done about it is done: it is pinned to one processor,
so that it meets one of two workers only, and costs little. What is left is told, in two figures. On the clock: what a
client on the same machine sees. By processor time: how many requests the workers' own processor seconds pay for, times
how many workers there are; that leaves the generator out, and shows whether two workers get in each other's way (locks,
caches), which is the question. As in `bench/answers.py`, anew and asked again.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench import answers, filled, load, measure, server

WORKERS = (1, 2)
SHAPE = (1_000, 60)  # zones, days
WARM_UP = 4  # times each: a worker that never got a request answers it anew


class Rate(NamedTuple):
    """Requests a second on the clock, a second of the workers' processor time, and the generator's share of one."""

    on_clock: float
    by_cpu: float
    generator: float


def main() -> None:
    """Measure alternately, so that what else the machine does meets all alike."""
    cores = os.cpu_count() or 1
    server.pin_generator()
    found: dict[tuple[str, int], list[Rate]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        data = filled.zones(Path(root) / "zones", *SHAPE)
        asked = answers.zone_requests(data, SHAPE[0])
        for _ in range(measure.RUNS):
            for name, keeps in (("anew", False), ("again", True)):
                for count in WORKERS:
                    with server.bandmeter(data.folder, filled.NOW, workers=count, keeps=keeps, is_pinned=False) as one:
                        found.setdefault((name, count), []).append(_rate(one, asked, count))
    clock = {key: measure.median([rate.on_clock for rate in rates]) for key, rates in found.items()}
    paid = {key: key[1] * measure.median([rate.by_cpu for rate in rates]) for key, rates in found.items()}
    share = {key: measure.median([rate.generator for rate in rates]) for key, rates in found.items()}
    rows = [
        {
            "workers": f"{count}, {name}",
            "requests/s": int(clock[name, count]),
            "of one worker": clock[name, count] / clock[name, 1],
            "by processor time, requests/s": int(paid[name, count]),
            "of one worker's": paid[name, count] / paid[name, 1],
            "the generator's part of a processor": share[name, count],
        }
        for name, count in found
    ]
    measure.report("workers", rows)
    if cores <= max(WORKERS):
        print(f"{cores} processors for {max(WORKERS)} workers and the load generator: the clock's figure is too low.")


def _rate(running: server.Server, asked: list[bytes], workers: int) -> Rate:
    connections = load.CONNECTIONS * workers
    for _ in range(WARM_UP):
        load.each(running.port, asked, connections)
    before = running.cpu_s()
    rate = load.answers(running.port, asked, answers.SECONDS, connections)
    spent = running.cpu_s() - before
    return Rate(rate.per_s, rate.answered / spent, rate.generator_s / rate.seconds)


if __name__ == "__main__":
    main()
